extern crate std;
use std::string::{String, ToString};
use std::vec::Vec;

use proptest::prelude::*;

use super::super::{CommandLine, Dialect, OptionError, Problem};
use crate::ceiling::Ceiling;
use crate::grant::Access;
use crate::limits::Dataspaces;
use crate::words::{FactoryRequest, Why};

fn read(line: &str) -> Result<CommandLine<'_>, OptionError> {
    CommandLine::parse(line.split_ascii_whitespace(), Dialect::COMMON)
}

fn ok(line: &str) -> CommandLine<'_> {
    read(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn problem(line: &str) -> Problem {
    match read(line) {
        Err(error) => error.problem,
        Ok(parsed) => panic!("{line}: accepted as {parsed:?}"),
    }
}

fn factories<'a>(line: &CommandLine<'a>) -> Vec<(&'a str, FactoryRequest)> {
    line.factories().collect()
}

fn places(dataspaces: Dataspaces) -> Option<Vec<usize>> {
    dataspaces.is_bounded().then(|| dataspaces.places().collect())
}

#[test]
fn a_factory_is_asked_for_by_the_same_words_as_in_create() {
    let line = ok(
        "--register-ds a --register-ds b --factory t --device x:n1 --ds-max 3 --readonly --device root --ds b \
                   --iops 100 --bytes 1M --sessions 8 --factories 2 --iops-all 200 --bytes-all=2M -v",
    );
    let [(cap, asked)] = <[_; 1]>::try_from(factories(&line)).unwrap();
    let words = [
        "device=x:n1",
        "device=root",
        "ds-max=3",
        "read-only",
        "ds=b",
        "iops=100",
        "bytes=1M",
        "sessions=8",
        "factories=2",
        "iops-all=200",
        "bytes-all=2M",
    ];
    let trusted = crate::words::Trusted { names: &["a", "b"], held: Dataspaces::ALL };
    let wanted = FactoryRequest::from_words(words, &trusted).unwrap();
    assert_eq!((cap, asked.devices()), ("t", wanted.devices()));
    assert_eq!(Ceiling::SERVER.below(&asked), Ceiling::SERVER.below(&wanted));
    assert!(line.clients.is_empty());
}

#[test]
fn clients_and_factories_have_options_of_their_own() {
    let line = ok(
        "--client c --device x:n1 --factory f --device y:n1 --device z:n1 --readonly --client d --device w:n1 \
                   --iops 5 --factory g --device v:n1 --sessions 1",
    );
    let clients: Vec<_> =
        line.clients.iter().map(|c| (c.cap, c.policy.access(), c.policy.rate().iops.is_some())).collect();
    assert_eq!(clients, [("c", Access::ReadWrite, false), ("d", Access::ReadWrite, true)]);
    let made: Vec<_> = factories(&line)
        .into_iter()
        .map(|(cap, asked)| {
            let devices: Vec<String> = asked.devices().iter().map(ToString::to_string).collect();
            let ceiling = Ceiling::SERVER.below(&asked).unwrap();
            (cap, devices, ceiling.access(), ceiling.sessions())
        })
        .collect();
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        made,
        [
            ("f", names(&["y:n1", "z:n1"]), Access::ReadOnly, None),
            ("g", names(&["v:n1"]), Access::ReadWrite, Some(1))
        ]
    );
}

#[test]
fn a_dataspace_of_a_client_may_be_named_before_it_is_trusted_and_must_be_trusted() {
    let line = ok(
        "--client a --device x:n1 --ds vm2 -d vm1 -d vm2 -d vm3 --factory f --device y:n1 --ds vm3 --ds vm1",
    );
    assert_eq!(places(line.clients[0].policy.dataspaces()), Some(std::vec![1]));
    let (_, asked) = factories(&line).remove(0);
    assert_eq!(places(Ceiling::SERVER.below(&asked).unwrap().dataspaces()), Some(std::vec![0, 2]));
    // Who names none may register whatever the server admits.
    let line = ok("-d vm1 --client a --device x:n1 --factory f --device y:n1");
    assert_eq!(line.clients[0].policy.dataspaces(), Dataspaces::ALL);
    let error = read("-d vm1 --client a --device x:n1 --ds vm1 --ds VM1").unwrap_err();
    assert_eq!((error.option, error.problem), ("--ds", Problem::NotTrusted));
    assert!(error.to_string().starts_with("--ds \"VM1\": no trusted dataspace has that name"), "{error}");
    assert_eq!(problem("--factory f --device y:n1 --ds vm1"), Problem::NotTrusted);
    assert_eq!(problem("--factory f --device y:n1 --ds a --ds a -d a"), Problem::Client(Why::Repeated));
}

#[test]
fn an_option_in_the_wrong_place_is_named() {
    for option in ["--device x:n1", "--ds-max 2", "--readonly", "--ds a", "--iops 1", "--bytes 1"] {
        assert_eq!(problem(option), Problem::NoClient, "{option}");
    }
    for option in ["--sessions 1", "--factories 1", "--iops-all 1", "--bytes-all 1"] {
        assert_eq!(problem(option), Problem::NoFactory, "{option}");
        let behind = std::format!("--client a --device x:n1 {option}");
        assert_eq!(problem(&behind), Problem::NoFactory, "{option}");
    }
}

#[test]
fn what_is_wrong_of_a_factory_is_said_by_name() {
    let in_factory = |options: &str| read_all(&std::format!("--factory f --device x:n1 {options}"));
    fn read_all(line: &str) -> String {
        read(line).map_err(|error| error.to_string()).map(|_| ()).unwrap_err()
    }
    for (options, said) in [
        ("--device x:n1", "--device \"x:n1\": said twice"),
        ("--ds-max 0", "--ds-max \"0\": not a decimal number from 1 to 256"),
        ("--readonly --readonly", "--readonly: said twice"),
        ("--sessions 0", "--sessions \"0\": not a decimal number from 1 to 65535"),
        ("--sessions 1 --sessions 1", "--sessions \"1\": said twice"),
        ("--factories 65", "--factories \"65\": not a decimal number from 0 to 64"),
        ("--iops 0", "--iops \"0\": not a decimal number from 1"),
        ("--iops-all x", "--iops-all \"x\": not a decimal number from 1"),
        ("--bytes 0", "--bytes \"0\": no size"),
        ("--bytes-all 1Q", "--bytes-all \"1Q\": no size"),
        ("--device x:n0", "--device \"x:n0\": "),
    ] {
        let error = in_factory(options);
        assert!(error.starts_with(said), "{options}: {error}");
    }
    assert_eq!(read_all("--factory f"), "--factory \"f\": no device is named; add --device DEV behind it");
    for (line, wanted) in [
        ("--factory f --device x:n1 --factory f --device x:n1", Problem::Repeated),
        ("--client f --device x:n1 --factory f --device x:n1", Problem::TwoUses),
        ("--factory f --device x:n1 --client f --device x:n1", Problem::TwoUses),
        ("--factory f --device x:n1 -d f", Problem::TwoUses),
        ("-d f --factory f --device x:n1", Problem::TwoUses),
        ("--factory svr --device x:n1", Problem::Reserved),
        ("--factory=a=b --device x:n1", Problem::CapName),
    ] {
        assert_eq!(problem(line), wanted, "{line}");
    }
    let many = |n: usize, devices: usize| -> String {
        (0..n)
            .map(|f| {
                let devices: String =
                    (0..devices).map(|d| std::format!("--device s{f}:n{} ", d + 1)).collect();
                std::format!("--factory f{f} {devices}")
            })
            .collect()
    };
    assert_eq!(factories(&ok(&many(64, 4))).len(), 64);
    assert_eq!(factories(&ok(&many(16, 16)))[15].1.devices().len(), 16);
    assert_eq!(problem(&many(65, 1)), Problem::TooMany(64));
    assert_eq!(problem(&many(1, 17)), Problem::Client(Why::TooManyDevices(16)));
    assert_eq!(problem(&many(17, 16)), Problem::TooManyDevices(256));
}

proptest! {
    /// Whatever order they come in: what a client or factory may register is what it named, by its place among the trusted ones.
    #[test]
    fn dataspaces_are_those_that_were_named(
        trusted in proptest::sample::subsequence((0..12_usize).collect::<Vec<_>>(), 0..12).prop_shuffle(),
        said in proptest::collection::vec(proptest::collection::hash_set(0..12_usize, 0..4), 1..5),
        late in any::<bool>(),
    ) {
        let register: String = trusted.iter().map(|n| std::format!("-d m{n} ")).collect();
        let scopes: String = said.iter().enumerate().map(|(at, names)| {
            let kind = if at % 2 == 0 { "client" } else { "factory" };
            let names: String = names.iter().map(|n| std::format!("--ds m{n} ")).collect();
            std::format!("--{kind} c{at} --device s:n{} {names}", at + 1)
        }).collect();
        let text = if late { scopes + &register } else { register + &scopes };
        let known = said.iter().flatten().all(|n| trusted.contains(n));
        match read(&text) {
            Err(error) => prop_assert!(!known && error.problem == Problem::NotTrusted, "{error}"),
            Ok(line) => {
                prop_assert!(known);
                let clients = line.clients.iter().map(|c| (c.cap, c.policy.dataspaces()));
                let made = factories(&line);
                let made = made.iter().map(|(cap, asked)| (*cap, Ceiling::SERVER.below(asked).unwrap().dataspaces()));
                for (cap, has) in clients.chain(made) {
                    let named = &said[cap[1..].parse::<usize>().unwrap()];
                    prop_assert_eq!(has.is_bounded(), !named.is_empty());
                    for (place, n) in trusted.iter().enumerate() {
                        prop_assert_eq!(has.admits(Some(place)), named.is_empty() || named.contains(n));
                    }
                }
            }
        }
    }
}
