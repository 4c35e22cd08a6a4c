use super::*;

fn host(name: &str) -> Option<Arc<VirtualHost>> {
    Some(Arc::new(VirtualHost {
        name: name.into(),
        ..VirtualHost::default()
    }))
}

fn table() -> RouteTable {
    let base = RouteTable {
        exact: HashMap::from([("a".into(), host("base a")), ("b".into(), host("base b"))]),
        suffixes: vec![(6, HashMap::from([(".x.com".into(), host("*.x.com"))]))],
        any: host("*"),
        ..RouteTable::default()
    };
    RouteTable {
        exact: HashMap::from([("a".into(), host("own a")), ("b".into(), None)]),
        suffixes: vec![(4, HashMap::from([(".com".into(), host("*.com"))]))],
        base: Some(Arc::new(base)),
        ..RouteTable::default()
    }
}

#[test]
fn exact_beats_suffix_beats_any_and_own_beats_base() {
    let table = table();
    for (authority, expected) in [
        ("a", "own a"),
        ("A:80", "own a"),      // case and port are ignored
        ("b", "*"),             // hidden here, so only the catch-all is left
        ("q.x.com", "*.x.com"), // the longest suffix, though it stands in the base
        (".x.com", "*.com"),    // `*` covers at least one character
        ("q.com", "*.com"),
        ("", "*"),
        ("[::1]:80", "*"),
    ] {
        let found = table.find(authority).map(|found| &*found.name);
        assert_eq!(found, Some(expected), "authority {authority:?}");
    }
}

#[test]
fn whatever_follows_the_last_colon_is_a_port() {
    for (authority, host) in [
        ("a:80", "a"),
        ("a:", "a"),
        ("[::1]", "[::1]"),
        ("[::1]:8", "[::1]"),
        ("a", "a"),
    ] {
        assert_eq!(without_port(authority), host, "{authority}");
    }
}
