use super::*;

fn parse_documents(bytes: &[u8]) -> Result<Vec<Node>, SyntaxError> {
    let mut documents = Vec::new();
    for_each_document(bytes, |document| documents.push(document)).map(|()| documents)
}

/// Documents as one line of JSON-like text.
fn show(node: &Node) -> String {
    match &node.value {
        Value::Scalar(scalar) => format!("{}:{:?}", scalar.text, scalar.meaning),
        Value::Sequence(items) => {
            format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(","))
        }
        Value::Mapping(entries) => {
            let fields: Vec<String> = entries
                .iter()
                .map(|entry| format!("{}={}", entry.key, show(&entry.value)))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Invalid(problem) => format!("!{problem}"),
    }
}

#[test]
fn every_form_in_which_manifests_come_is_read() {
    for (why, text, expected) in [
        ("plain", "a: x\n", "{a=x:Text}"),
        ("byte order mark", "\u{feff}a: x\n", "{a=x:Text}"),
        ("CRLF", "a: x\r\nb:\r\n- p\r\n", "{a=x:Text,b=[p:Text]}"),
        (
            "JSON with tabs",
            "{\n\t\"a\": \"x\",\n\t\"b\": [\n\t\t1\n\t]\n}\n",
            "{a=x:Text,b=[1:Int(1)]}",
        ),
        (
            "several documents",
            "a: x\n---\nb: p\n",
            "{a=x:Text} {b=p:Text}",
        ),
        (
            "empty documents",
            "---\n---\n# only a comment\n---\na: x\n---\n",
            "{a=x:Text}",
        ),
        (
            "comment after ---",
            "--- # Source: chart\na: x\n",
            "{a=x:Text}",
        ),
        ("words after ---", "--- reviews\na: x\n", "{a=x:Text}"),
        ("JSON after ---", "--- {\"a\": 1}\n", "{a=1:Int(1)}"),
        (
            "end markers",
            "a: x\n...\n---\nb: p\n...\n",
            "{a=x:Text} {b=p:Text}",
        ),
        ("nothing", "", ""),
        ("only comments", "# a\n# b\n", ""),
        (
            "anchors",
            "a: &l {v: x}\nb: *l\n",
            "{a={v=x:Text},b={v=x:Text}}",
        ),
        (
            "merge key",
            "a: &l {v: x, w: p}\nb:\n  <<: *l\n  v: z\n",
            "{a={v=x:Text,w=p:Text},b={v=z:Text,w=p:Text}}",
        ),
        (
            "merge list",
            "a: &l {v: x}\nb: &m {v: p, u: w}\nc:\n  <<: [*l, *m]\n",
            "{a={v=x:Text},b={v=p:Text,u=w:Text},c={v=x:Text,u=w:Text}}",
        ),
        (
            "quoted text stays text",
            "a: '1e3'\nb: \"0123\"\nc: \"true\"\nd: \"\"\n",
            "{a=1e3:Text,b=0123:Text,c=true:Text,d=:Text}",
        ),
        ("block text", "a: |\n  x\n  p\n", "{a=x\np\n:Text}"),
        ("tagged text", "a: !!str 5\n", "{a=5:Text}"),
        ("empty value", "a:\nb: ~\n", "{a=~:Null,b=~:Null}"),
        ("indented less", "a:\n- x\n- p\n", "{a=[x:Text,p:Text]}"),
        ("numeric keys", "8080: x\n", "{8080=x:Text}"),
    ] {
        let documents = parse_documents(text.as_bytes());
        let shown: Result<String, _> =
            documents.map(|documents| documents.iter().map(show).collect::<Vec<_>>().join(" "));
        assert_eq!(shown, Ok(expected.to_owned()), "{why}");
    }
}

#[test]
fn what_is_wrong_in_one_place_stays_there() {
    for (text, path, line) in [
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", "b.c", 5), // the second one is the mistake
        ("a: !custom x\n", "a", 1),
        ("a: [1, !custom [2]]\n", "a[1]", 1),
        ("? [x]\n: y\n", "?", 1),
        ("a:\n  <<: text\n", "a", 1),
    ] {
        let documents = parse_documents(text.as_bytes()).expect("it parses");
        let invalid = documents[0].find_invalid().expect("something is invalid");
        assert_eq!((invalid.0.as_str(), invalid.1), (path, line), "{text:?}");
    }
}

#[test]
fn what_is_not_yaml_is_refused_with_its_line() {
    let deep = "[".repeat(200);
    let laughs = (1..12).fold("a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, level| {
        let below = level - 1;
        let list = vec![format!("*a{below}"); 9].join(",");
        text + &format!("a{level}: &a{level} [{list}]\n")
    });
    for (text, line) in [
        (&b"a: x\nb: [\n"[..], 2),
        (b"a: x\n\tb: y\n", 1),
        (b"a: \xff\n", 1),
        (b"a: x\n\nb: *nowhere\n", 3),
        (b"a: &a [*a]\n", 1),
        (deep.as_bytes(), 1),
        (laughs.as_bytes(), 6),
    ] {
        let shown = String::from_utf8_lossy(&text[..text.len().min(40)]);
        let error = parse_documents(text).expect_err("refused");
        assert_eq!(error.line, line, "{shown:?}: {error}");
    }
}

#[test]
fn a_mapping_with_many_keys_still_finds_those_written_twice() {
    let mut text: String = (0..5000).map(|key| format!("k{key}: {key}\n")).collect();
    text += "k4321: again\n";
    let documents = parse_documents(text.as_bytes()).expect("it parses");
    let invalid = documents[0]
        .find_invalid()
        .map(|(path, line, _)| (path, line));
    assert_eq!(invalid, Some(("k4321".to_owned(), 5001)));
}
