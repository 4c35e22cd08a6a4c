//! Golden files: YAML in, findings and snapshot out as text.
//!
//! Every `tests/golden/compile/**/*.yaml` has a `.txt` beside it. `MIZZEN_BLESS=1`
//! writes what comes out now; review the difference before committing it.
//!
//! A case may begin with comment lines that the harness reads:
//! `# with: shop.yaml` adds a file of `tests/golden/base`, and the output is what
//! the case changes in the snapshot of that file alone; `# settings: word ...`
//! changes settings, `# mesh: {...}` is a MeshConfig, `# show: word ...` keeps only the
//! parts of the snapshot whose first word is named (`findings` alone keeps none).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proxy_user::compile::compile;
use proxy_user::finding::Finding;
use proxy_user::settings::{CompileSettings, MeshConfig, NamespaceBudget, OnProxyDown};
use proxy_user::snapshot::dump::dump;
use proxy_user::source::state::{DirectoryState, FileText, Files};

/// What the comments at the top of a case say.
#[derive(Default)]
struct Header<'a> {
    with: Vec<&'a str>,
    settings: Vec<&'a str>,
    mesh: Option<&'a str>,
    show: Vec<&'a str>,
}

fn header(text: &str) -> Header<'_> {
    let mut header = Header::default();
    for line in text.lines().map_while(|line| line.strip_prefix("# ")) {
        let Some((key, words)) = line.split_once(": ") else {
            continue;
        };
        if key == "mesh" {
            header.mesh = Some(words);
        }
        let words = words.split_whitespace();
        match key {
            "with" => header.with.extend(words),
            "settings" => header.settings.extend(words),
            "show" => header.show.extend(words),
            _ => {}
        }
    }
    header
}

fn settings(header: &Header<'_>) -> CompileSettings {
    let mesh = MeshConfig::parse("mesh", header.mesh.unwrap_or("{}"));
    let mut settings = CompileSettings {
        node: "node-1".to_owned(),
        mesh: mesh.expect("a MeshConfig").settings(),
        on_proxy_down: OnProxyDown::Degrade,
        is_capture_labelled: false,
        capture_host_network: false,
        accept_unenforced_policies: false,
        namespace_budget: NamespaceBudget::default(),
    };
    for word in &header.settings {
        match *word {
            "registryOnly" => settings.mesh.is_registry_only = true,
            "labelled" => settings.is_capture_labelled = true,
            "h2Upgrade" => settings.mesh.h2_upgrade = true,
            other => panic!("no such setting: {other}"),
        }
    }
    settings
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

/// The blocks of a dump whose first word is in `show`, or all.
fn shown(dump: &str, show: &[&str]) -> String {
    let mut is_shown = true;
    let mut text = String::new();
    for line in dump.lines() {
        if !line.starts_with(' ') && !show.is_empty() {
            is_shown = line
                .split(' ')
                .next()
                .is_some_and(|word| show.contains(&word));
        }
        if is_shown {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// One line of a difference.
struct Line<'a> {
    mark: char,
    text: &'a str,
}

impl Line<'_> {
    fn depth(&self) -> usize {
        self.text.len() - self.text.trim_start().len()
    }
}

/// Lines that `after` has (`+`) or lacks (`-`), each below the lines it stands under.
fn difference(before: &str, after: &str) -> String {
    let lines = aligned(before, after);
    let mut is_needed = vec![false; lines.len()];
    for (at, line) in lines.iter().enumerate() {
        if line.mark == ' ' {
            continue;
        }
        is_needed[at] = true;
        let mut depth = line.depth();
        for above in (0..at).rev() {
            // A line stands under one of its own side, or of both.
            let can_hold = lines[above].mark == ' ' || lines[above].mark == line.mark;
            if can_hold && lines[above].depth() < depth {
                is_needed[above] = true;
                depth = lines[above].depth();
            }
        }
    }
    let shown = lines
        .iter()
        .zip(is_needed)
        .filter(|(_, is_needed)| *is_needed);
    shown
        .map(|(line, _)| format!("{} {}\n", line.mark, line.text))
        .collect()
}

/// All lines of both texts; common ones, a longest common subsequence, once.
fn aligned<'a>(before: &'a str, after: &'a str) -> Vec<Line<'a>> {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let mut common = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = if old[i] == new[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let mut lines = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push(Line {
                mark: ' ',
                text: old[i],
            });
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(Line {
                mark: '-',
                text: old[i],
            });
            i += 1;
        } else {
            lines.push(Line {
                mark: '+',
                text: new[j],
            });
            j += 1;
        }
    }
    lines
}

fn compiled(files: &Files, header: &Header<'_>) -> (String, String) {
    let loaded = DirectoryState::new().apply(files);
    let compiled = compile(&loaded.objects, &settings(header));
    // Which fields the data planes honour is the table of `api::honoured`, not compile's.
    let is_ours = |finding: &&Finding| finding.code != "not-honoured";
    let findings = loaded
        .findings
        .iter()
        .chain(&compiled.findings)
        .filter(is_ours);
    let findings: String = findings.map(|finding| format!("{finding}\n")).collect();
    (findings, shown(&dump(&compiled.snapshot), &header.show))
}

/// Findings, then the snapshot or what the case changes in it.
fn output(name: &str, text: &str) -> (String, String) {
    let header = header(text);
    let mut files = Files::new();
    for name in &header.with {
        let base = std::fs::read_to_string(root().join("base").join(name));
        let base = base.expect("the base file is there");
        files.insert(Arc::from(*name), FileText::from(base.as_str()));
    }
    let before = (!files.is_empty()).then(|| compiled(&files, &header).1);
    files.insert(Arc::from(name), FileText::from(text));
    let (findings, after) = compiled(&files, &header);
    match before {
        Some(before) => (findings, difference(&before, &after)),
        None => (findings, after),
    }
}

fn cases() -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let mut directories = vec![root().join("compile")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("the golden directory is there") {
            let path = entry.expect("the golden directory is readable").path();
            if path.is_dir() {
                directories.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                paths.push(path);
            }
        }
    }
    paths.sort();
    paths
}

#[test]
fn every_golden_case_gives_what_it_gave_before() {
    let is_blessing = std::env::var_os("MIZZEN_BLESS").is_some();
    let mut different = Vec::new();
    let paths = cases();
    assert!(!paths.is_empty(), "no golden case was found");
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a golden case is text");
        let name = path
            .file_name()
            .expect("a file has a name")
            .to_string_lossy();
        let (findings, snapshot) = output(&name, &text);
        let found = format!("{findings}---\n{snapshot}");
        let expected_path = path.with_extension("txt");
        if is_blessing {
            std::fs::write(&expected_path, &found).expect("the golden directory is writable");
            continue;
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if expected != found {
            different.push(format!("{name}:\n{}", first_difference(&expected, &found)));
        }
    }
    let count = different.len();
    let text = different.join("\n");
    assert!(
        count == 0,
        "{count} cases differ; MIZZEN_BLESS=1 accepts them\n{text}"
    );
}

fn first_difference(expected: &str, found: &str) -> String {
    let mut lines = expected.lines().zip(found.lines()).enumerate();
    match lines.find(|(_, (expected, found))| expected != found) {
        Some((at, (expected, found))) => {
            format!(
                "  line {}\n  expected {expected}\n  found    {found}",
                at + 1
            )
        }
        None => format!(
            "  expected {} lines, found {}",
            expected.lines().count(),
            found.lines().count()
        ),
    }
}

#[test]
fn the_order_of_documents_changes_nothing_and_compiling_twice_gives_the_same() {
    for path in cases() {
        let text = std::fs::read_to_string(&path).expect("a golden case is text");
        let (findings, snapshot) = output("case", &text);
        let (again, snapshot_again) = output("case", &text);
        assert_eq!(findings, again, "{}", path.display());
        assert_eq!(snapshot, snapshot_again, "{}", path.display());
        let comments = text.lines().take_while(|line| line.starts_with('#'));
        let comments: String = comments.map(|line| format!("{line}\n")).collect();
        let mut documents: Vec<&str> = text.split("\n---\n").collect();
        documents.reverse();
        let reversed = format!("{comments}{}", documents.join("\n---\n"));
        let (_, reversed) = output("case", &reversed);
        assert_eq!(snapshot, reversed, "{}", path.display());
    }
}
