//! Every id of the acceptance checklist that is in reach has a test that names it, or a line in
//! docs/differences.md that says what happens instead.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// First and last of each run of ids.
const IDS: [(u32, u32); 9] = [
    (1, 18),
    (20, 33),
    (35, 108),
    (110, 110),
    (142, 161),
    (185, 188),
    (194, 199),
    (201, 201),
    (205, 208),
];

/// Most ids that may differ instead of being tested.
const DIFFERENCES_MAX: usize = 8;

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("the tree is there") {
        let path = entry.expect("the tree is readable").path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Ids that a text names: `A055`, `a055_`, and runs such as `A081 to A089` or `a156_to_a161`.
fn ids(text: &str) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut last: Option<(u32, usize)> = None;
    let bytes = text.as_bytes();
    for at in 0..bytes.len().saturating_sub(3) {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        let is_word = before.is_some_and(|it| it.is_ascii_alphanumeric());
        let digits = bytes.get(at + 1..at + 4).unwrap_or_default();
        let after = bytes.get(at + 4).is_some_and(u8::is_ascii_alphanumeric);
        if !matches!(bytes[at], b'A' | b'a') || is_word || after {
            continue;
        }
        let Some(id) = std::str::from_utf8(digits)
            .ok()
            .and_then(|it| it.parse().ok())
        else {
            continue;
        };
        if let Some((first, end)) = last
            && ["_to_", " to ", "–", "-"].contains(&text.get(end..at).unwrap_or_default())
        {
            found.extend(first..=id);
        }
        found.insert(id);
        last = Some((id, at + 4));
    }
    found
}

/// The part of a source file that is tests.
fn tests_of<'a>(path: &Path, text: &'a str) -> &'a str {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_test = name.contains("test")
        || path.components().any(|part| part.as_os_str() == "tests")
        || path
            .components()
            .any(|part| part.as_os_str() == "field_table");
    if is_test {
        return text;
    }
    text.find("#[cfg(test)]").map_or("", |at| &text[at..])
}

/// Files that name each id in a test or case.
fn named() -> BTreeMap<u32, Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = Vec::new();
    for directory in [
        "proxy-common/src",
        "proxy-user/src",
        "proxy-user/tests",
        "tests/tests",
    ] {
        files(&root.join(directory), &mut sources);
    }
    for directory in ["tests/rules", "tests/checklist", "tests/golden"] {
        files(&root.join(directory), &mut sources);
    }
    let own = Path::new(file!()).file_name();
    let mut named: BTreeMap<u32, Vec<PathBuf>> = BTreeMap::new();
    for path in sources.into_iter().filter(|path| path.file_name() != own) {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        let part = if is_source {
            tests_of(&path, &text)
        } else {
            &text
        };
        for id in ids(part) {
            named.entry(id).or_default().push(path.clone());
        }
    }
    named
}

#[test]
fn every_id_has_a_test_or_a_line_that_says_what_differs() {
    let named = named();
    let differences = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/differences.md");
    let differences = ids(&std::fs::read_to_string(differences).expect("it is there"));
    let wanted = IDS.into_iter().flat_map(|(first, last)| first..=last);
    let missing: Vec<String> = wanted
        .filter(|id| !named.contains_key(id) && !differences.contains(id))
        .map(|id| format!("A{id:03}"))
        .collect();
    assert!(missing.is_empty(), "no test names {}", missing.join(", "));
    let count = differences.len();
    assert!(
        count <= DIFFERENCES_MAX,
        "{count} ids in docs/differences.md"
    );
}

#[test]
fn ids_are_read_in_every_form_that_tests_write() {
    for (text, expected) in [
        ("fn a055_a074_order() {}", &[55, 74][..]),
        ("// A081–A083: each row", &[81, 82, 83]),
        ("fn a156_to_a158_policies() {}", &[156, 157, 158]),
        ("- id: A009", &[9]),
        ("TLS_AES_256_GCM A2560 BA055 sha384", &[]),
    ] {
        let expected: BTreeSet<u32> = expected.iter().copied().collect();
        assert_eq!(ids(text), expected, "{text}");
    }
}
