use super::super::problem::nearest;
use super::*;
use crate::api::{Duration, Pod, StringMatch, VirtualService};
use crate::source::document::for_each_document;

fn read_text<T: DeserializeOwned>(text: &str) -> Result<T, TypeProblem> {
    let mut first = None;
    for_each_document(text.as_bytes(), |document| {
        first.get_or_insert(document);
    })
    .expect("YAML");
    read(&first.expect("a document"), "")
}

#[test]
fn what_does_not_fit_is_refused_with_path_line_and_the_way_out() {
    for (text, path, line, message) in [
        (
            "hosts: [a]\nhttp:\n- timeout: 5\n",
            "http[0].timeout",
            3,
            "expected a duration such as \"250ms\", found the number 5",
        ),
        (
            "http:\n- timeout: 5d\n",
            "http[0].timeout",
            2,
            "expected a duration such as \"250ms\", \"1.5s\" or \"1h30m\", found \"5d\"",
        ),
        (
            "http:\n- match:\n  - uri:\n      exact: 2\n",
            "http[0].match[0].uri.exact",
            4,
            "expected text, found the number 2; write it in quotes: \"2\"",
        ),
        (
            "http:\n- match:\n  - uri:\n      exact: on\n",
            "http[0].match[0].uri.exact",
            4,
            "expected text, found the truth value on; write it in quotes: \"on\"",
        ),
        (
            "http:\n- match:\n  - heders: {}\n",
            "http[0].match[0].heders",
            3,
            "unknown field \"heders\"; did you mean \"headers\"?",
        ),
        (
            "http:\n- match:\n  - heders:\n",
            "http[0].match[0].heders",
            3, // even if it is empty
            "unknown field \"heders\"; did you mean \"headers\"?",
        ),
        (
            "http:\n- match:\n  - uri: {exact: a, prefix: b}\n",
            "http[0].match[0].uri",
            3,
            "exactly one of exact, prefix and regex can be set",
        ),
        (
            "http:\n- route:\n  - weight: \"5\"\n",
            "http[0].route[0].weight",
            3,
            "expected a whole number, found the text \"5\"",
        ),
        (
            "http:\n- route:\n  - weight: 4294967296\n",
            "http[0].route[0].weight",
            3,
            "expected a whole number from -2147483648 to 2147483647, found the number 4294967296",
        ),
        (
            "http:\n- route:\n  -\n",
            "http[0].route[0]",
            3,
            "empty entry in a list; remove it or fill it in",
        ),
        (
            "http: x\n",
            "http",
            1,
            "expected a list, found the text \"x\"",
        ),
        (
            "http:\n- route: {}\n",
            "http[0].route",
            2,
            "expected a list, found a mapping",
        ),
        (
            "http:\n- rewrite: []\n",
            "http[0].rewrite",
            2,
            "expected a mapping, found a list",
        ),
        (
            "http:\n- match:\n  - headers:\n      x: null\n",
            "http[0].match[0].headers.x",
            4,
            "expected a mapping, found null",
        ),
        (
            "http:\n- redirect: {derivePort: PORT}\n",
            "http[0].redirect.derivePort",
            2,
            "unknown value \"PORT\"; expected one of FROM_PROTOCOL_DEFAULT, FROM_REQUEST_PORT",
        ),
    ] {
        let problem = read_text::<VirtualService>(text).expect_err(text);
        let expected = TypeProblem {
            path: path.to_owned(),
            line,
            message: message.to_owned(),
        };
        assert_eq!(problem, expected, "{text:?}");
    }
}

#[test]
fn what_is_empty_is_absent_and_kinds_of_kubernetes_may_have_more() {
    let empty: VirtualService =
        read_text("hosts:\nhttp: null\ntcp: []\nexportTo: ~\n").expect("it fits");
    assert_eq!(empty, VirtualService::default());
    let present: StringMatch = read_text("{}").expect("it fits");
    assert_eq!(present, StringMatch::Present);
    let pod: Pod = read_text("nodeName: n1\ntolerations: [{key: x}]\n").expect("it fits");
    assert_eq!(pod.node_name, "n1");
    let timeout: Duration = read_text("1.5s").expect("it fits");
    assert_eq!(timeout.get(), std::time::Duration::from_millis(1500));
}

#[test]
fn the_nearest_name_is_near() {
    for (name, expected) in [
        ("timout", Some("timeout")),
        ("Timeout", Some("timeout")), // case is the commonest slip
        ("retry", None),
        ("rotue", Some("route")),
        ("something", None),
    ] {
        assert_eq!(
            nearest(name, &["timeout", "retries", "route"]),
            expected,
            "{name}"
        );
    }
}
