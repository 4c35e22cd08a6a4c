//! The import table of the house: data flows one way, and so do imports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Modules that every other may use, and that use nothing of ours themselves.
const BASE: [&str; 4] = ["finding", "net", "settings", "telemetry"];

/// What each module may use besides itself and [`BASE`]; `proxy_common` is everybody's.
const ALLOWED: [(&str, &[&str]); 11] = [
    ("api", &[]),
    ("source", &["api"]),
    ("snapshot", &[]),
    ("compile", &["api", "snapshot"]),
    ("kernel", &["snapshot"]),
    ("node", &[]),
    ("dns", &[]),
    ("proxy", &["snapshot"]),
    (
        "admin",
        &[
            "api", "source", "snapshot", "compile", "kernel", "node", "proxy",
        ],
    ),
    (
        "cli",
        &[
            "api", "source", "snapshot", "compile", "kernel", "node", "proxy", "admin", "daemon",
        ],
    ),
    (
        "control",
        &[
            "api", "source", "snapshot", "compile", "kernel", "node", "dns", "proxy", "admin",
        ],
    ),
];

/// Crates that one module alone may name.
const CRATES: [(&str, &str); 2] = [("aya", "kernel"), ("hickory_resolver", "dns")];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("the source tree is there") {
        let path = entry.expect("the source tree is readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The module of a file: `compile/route.rs` and `settings.rs` give `compile` and `settings`.
fn module_of(path: &Path) -> String {
    let first = path
        .components()
        .next()
        .expect("a path below src has a first part");
    first
        .as_os_str()
        .to_string_lossy()
        .trim_end_matches(".rs")
        .to_owned()
}

/// Modules of our own that a source text names: `crate::net::…`, `crate::{api, net::…}`.
fn modules_named(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut named = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        // `pub(crate)::` does not exist, but `proxy_crate::` might.
        let before = code[..at].chars().next_back();
        if before.is_some_and(|it| it.is_alphanumeric() || it == '_' || it == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => named.extend(group_heads(group)),
            None => named.extend(head(rest)),
        }
    }
    named
}

/// The first name of each entry of a `use` group, which ends at its matching brace.
fn group_heads(group: &str) -> Vec<String> {
    let mut depth = 0_usize;
    let mut heads = Vec::new();
    let mut is_at_entry = true;
    for (at, letter) in group.char_indices() {
        match letter {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => is_at_entry = true,
            _ if is_at_entry && !letter.is_whitespace() => {
                heads.extend(head(&group[at..]));
                is_at_entry = false;
            }
            _ => {}
        }
    }
    heads
}

fn head(text: &str) -> Option<String> {
    let name: String = text
        .chars()
        .take_while(|it| it.is_ascii_alphanumeric() || *it == '_')
        .collect();
    (!name.is_empty()).then_some(name)
}

/// Every arrow of a source tree that the table forbids, in words.
fn wrong_arrows(root: &Path) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let mut files = Vec::new();
    sources(root, &mut files);
    let known: BTreeSet<String> = files
        .iter()
        .map(|file| module_of(file.strip_prefix(root).expect("below")))
        .collect();
    let mut wrong = Vec::new();
    for file in &files {
        let relative = file
            .strip_prefix(root)
            .expect("the walk stays below its root");
        let module = module_of(relative);
        let text = std::fs::read_to_string(file).expect("a source file is text");
        let is_base = BASE.contains(&module.as_str());
        // The process itself wires everything, and the table of fields is tried on the whole
        // road; nothing may import them.
        let is_top = ["main", "lib", "daemon", "field_table"].contains(&module.as_str());
        for used in modules_named(&text)
            .iter()
            .filter(|used| known.contains(*used))
        {
            let is_right = is_top
                || *used == module
                || (!is_base && BASE.contains(&used.as_str()))
                || allowed
                    .get(module.as_str())
                    .is_some_and(|list| list.contains(&used.as_str()));
            if !is_right {
                wrong.push(format!("{}: {module} uses {used}", relative.display()));
            }
        }
        for (name, owner) in CRATES {
            let is_named = [
                format!("use {name}::"),
                format!(" {name}::"),
                format!("({name}::"),
            ]
            .iter()
            .any(|pattern| {
                text.lines().any(|line| {
                    !line.trim_start().starts_with("//") && line.contains(pattern.as_str())
                })
            });
            if is_named && module != owner && !is_top {
                wrong.push(format!(
                    "{}: {module} uses the crate {name}",
                    relative.display()
                ));
            }
        }
    }
    wrong
}

#[test]
fn imports_of_the_proxy_follow_the_road() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proxy-user/src");
    let wrong = wrong_arrows(&root);
    assert!(wrong.is_empty(), "wrong arrows:\n{}", wrong.join("\n"));
}

#[test]
fn a_wrong_arrow_is_seen_in_every_form_of_import() {
    let root = tempfile::tempdir().expect("a temporary directory");
    for module in ["api", "net", "proxy", "kernel", "compile"] {
        std::fs::create_dir(root.path().join(module)).expect("a fresh directory");
        std::fs::write(root.path().join(module).join("mod.rs"), "").expect("a fresh file");
    }
    for (module, text, is_wrong) in [
        ("proxy", "use crate::api::Kind;", true),
        ("proxy", "use crate::{net::Addr, api::{Kind, Meta}};", true),
        ("proxy", "fn f(kind: crate::api::Kind) {}", true),
        ("proxy", "use crate::net::Addr;", false),
        ("proxy", "//! See [`crate::api`].", false),
        ("net", "use crate::proxy::Worker;", true),
        (
            "compile",
            "use crate::{\n    api::Kind,\n    net,\n};",
            false,
        ),
        ("proxy", "use aya::Ebpf;", true),
        ("kernel", "use aya::Ebpf;", false),
    ] {
        let file = root.path().join(module).join("case.rs");
        std::fs::write(&file, text).expect("a fresh file");
        assert_eq!(
            !wrong_arrows(root.path()).is_empty(),
            is_wrong,
            "{module}: {text}"
        );
        std::fs::remove_file(&file).expect("it was just written");
    }
}
