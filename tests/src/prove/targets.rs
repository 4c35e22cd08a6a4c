//! What is proved: each reader of foreign bytes, its seeds and its vocabulary.

use std::path::Path;
use std::sync::Arc;

use proxy_user::compile::compile;
use proxy_user::settings::{CompileSettings, MeshSettings, OnProxyDown};
use proxy_user::source::document::fuzz_entry;
use proxy_user::source::state::{DirectoryState, FileText, Files};

/// One reader of foreign bytes.
pub(super) struct Target {
    /// Its name on the command line.
    pub(super) name: &'static str,
    /// Inputs to start from.
    pub(super) seeds: fn() -> anyhow::Result<Vec<Vec<u8>>>,
    /// Words that mutations insert.
    pub(super) tokens: &'static [&'static str],
    /// Reads one input; a panic or a hang is the failure.
    pub(super) run: fn(&[u8]),
}

/// All targets.
pub(super) const TARGETS: &[Target] = &[
    Target {
        name: "yaml",
        seeds: yaml_seeds,
        tokens: YAML_TOKENS,
        run: read_yaml,
    },
    Target {
        name: "compile",
        seeds: yaml_seeds,
        tokens: YAML_TOKENS,
        run: compile_yaml,
    },
];

const YAML_TOKENS: &[&str] = &[
    "\n---\n",
    "&a ",
    "*a",
    "<<: *a",
    "!!str ",
    "!!binary ",
    "|-\n",
    ">+\n",
    "\t",
    "\u{feff}",
    "? ",
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "#",
    "null",
    "~",
    "0x7fffffffffffffff",
    "-1",
    "1e999",
    ".nan",
    "\r\n",
    "kind: List\nitems:\n",
    "weight: 4294967296",
    "timeout: 99999999999h",
    "subset: v1",
    "hosts: [\"*\"]",
    "exact: ",
    "regex: \"(a+)+$\"",
    "number: 70000",
    "simple: ROUND_ROBIN",
    "portLevelSettings:",
    "exportTo: [\".\"]",
    "delegate: {name: a}",
];

/// The repository's own configuration, and forms that it does not use.
fn yaml_seeds() -> anyhow::Result<Vec<Vec<u8>>> {
    let mut seeds = vec![
        crate::fixture::RULES.as_bytes().to_vec(),
        b"{\"kind\": \"List\", \"items\": [{\"kind\": \"Service\", \"metadata\": {\"name\": \"a\"}}]}".to_vec(),
        b"a: &a {b: 1}\nc: {<<: *a, d: [1, 2]}\n".to_vec(),
    ];
    read_tree(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../config"),
        &mut seeds,
    )?;
    let mut golden = Vec::new();
    read_tree(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/validation"),
        &mut golden,
    )?;
    // One object each: mutations of a whole file mostly break its first one.
    for file in golden {
        let text = String::from_utf8_lossy(&file);
        seeds.extend(
            text.split("\n---\n")
                .map(|object| object.as_bytes().to_vec()),
        );
    }
    Ok(seeds)
}

fn read_tree(directory: &Path, seeds: &mut Vec<Vec<u8>>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            read_tree(&path, seeds)?;
        } else {
            seeds.push(std::fs::read(&path)?);
        }
    }
    Ok(())
}

fn read_yaml(input: &[u8]) {
    std::hint::black_box(fuzz_entry(input));
}

/// From text to snapshot, as `mizzen validate` does; twice gives the same findings.
fn compile_yaml(input: &[u8]) {
    let name: Arc<str> = Arc::from("fuzz.yaml");
    let files = Files::from([(name, FileText::Read(input.to_vec()))]);
    let loaded = DirectoryState::new().apply(&files);
    let settings = CompileSettings {
        node: "node".to_owned(),
        mesh: MeshSettings::default(),
        on_proxy_down: OnProxyDown::Degrade,
        is_capture_labelled: false,
        capture_host_network: false,
        accept_unenforced_policies: false,
    };
    let first = compile(&loaded.objects, &settings);
    let second = compile(&loaded.objects, &settings);
    assert_eq!(
        first.findings, second.findings,
        "compiling twice gave different findings"
    );
}
