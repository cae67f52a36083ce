//! Words that are nearly right. Each place has its own right one: words of `create` stand alone, those of `run` behind commas.

/// What a word was meant to be, if it looks like one that there is.
pub(crate) fn meant(word: &str) -> Option<&'static str> {
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    let letters: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    match letters.to_ascii_lowercase().as_str() {
        "readonly" | "ro" | "rdonly" => Some("read-only"),
        "dsmax" | "maxds" => Some("ds-max=N"),
        _ => None,
    }
}

/// What is wrong with a word of `create` that holds others behind commas, as `run` has them.
pub(crate) fn joined(word: &str) -> Option<String> {
    let (device, last) = word.strip_prefix("device=")?.rsplit_once(',')?;
    let meant = if last.starts_with("ds-max=") { last } else { meant(last)? };
    Some(format!("{word}: words of create stand alone: device={device} {meant}"))
}

/// What to say about an option that `create` does not have and that was meant to be a word.
pub(crate) fn option(option: &str) -> Option<String> {
    let meant = meant(option)?;
    Some(format!("{option} is a word here, not an option: {meant}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_names_its_own_right_word() {
        assert_eq!(meant("readonly"), Some("read-only"));
        assert_eq!(meant("fast"), None);
        assert_eq!(
            joined("device=1234:n1,ro").as_deref(),
            Some("device=1234:n1,ro: words of create stand alone: device=1234:n1 read-only")
        );
        assert_eq!(
            joined("device=1234:n1,ds-max=3").as_deref(),
            Some("device=1234:n1,ds-max=3: words of create stand alone: device=1234:n1 ds-max=3")
        );
        assert_eq!(joined("device=S,N=1:n1"), None);
        assert_eq!(
            option("--readonly").as_deref(),
            Some("--readonly is a word here, not an option: read-only")
        );
    }
}
