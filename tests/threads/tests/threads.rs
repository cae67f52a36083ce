//! Every order of the accesses of two or three threads (see `src/models.rs`).

use nvme_threads::models;

#[test]
fn a_ring_is_never_lost() {
    models::a_ring_is_never_lost(1);
    models::a_ring_is_never_lost(2);
}

#[test]
fn behind_a_closed_gate_nobody_is_inside() {
    models::behind_a_closed_gate_nobody_is_inside();
}

#[test]
fn all_who_wait_at_a_gate_pass() {
    models::all_who_wait_at_a_gate_pass();
}

#[test]
fn frames_come_whole_and_in_order() {
    models::frames_come_whole_and_in_order();
}

#[test]
fn a_handler_uses_no_window_that_is_gone() {
    models::a_handler_uses_no_window_that_is_gone(false);
    models::a_handler_uses_no_window_that_is_gone(true);
}

#[test]
fn a_handler_finds_its_window_beside_others_that_change() {
    models::a_handler_finds_its_window_beside_others_that_change();
}

#[test]
fn a_request_that_took_long_is_read_whole() {
    models::a_request_that_took_long_is_read_whole();
}

#[test]
fn a_place_is_one_s_as_long_as_it_writes_there() {
    models::a_place_is_one_s_as_long_as_it_writes_there();
}

#[test]
fn neither_side_of_a_virtqueue_sleeps_through_what_the_other_has_for_it() {
    models::neither_side_of_a_virtqueue_sleeps_through_what_the_other_has_for_it();
}
