//! Intersections of hosts and conflicts of servers, as tables.

use super::merge::intersection;

#[test]
fn a186_of_each_overlapping_pair_the_narrower_name_stays() {
    for (server, own, expected) in [
        (&["*.ex.com"][..], &["a.ex.com"][..], &["a.ex.com"][..]),
        (&["a.ex.com"], &["*"], &["a.ex.com"]),
        (&["*.ex.com"], &["*.a.ex.com", "b.com"], &["*.a.ex.com"]),
        (&["a.com", "b.com"], &["*.com"], &["a.com", "b.com"]),
        (&["*"], &["*"], &["*"]),
        (&["*.ex.com"], &["ex.com"], &[]), // a wildcard does not cover the bare name
        (&["*", "*.ex.com"], &["a.ex.com"], &["a.ex.com"]), // named once
    ] {
        let server: Vec<String> = server.iter().map(|name| (*name).to_owned()).collect();
        let found = intersection(&server, own.iter().copied());
        assert_eq!(found, expected, "{server:?} and {own:?}");
    }
}
