//! The house's other walls: what pure modules never touch, where `unsafe` may stand, and that
//! no module reaches a sibling past the import table, which only reads `crate::`.

use std::path::{Path, PathBuf};

/// Modules without I/O, clock, randomness, locks and async, and words that would bring them.
const PURE: [&str; 3] = ["api", "compile", "snapshot"];
const IMPURE: [&str; 14] = [
    "std::fs",
    "std::io",
    "std::env",
    "std::process",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "Instant",
    "SystemTime",
    "Mutex",
    "RwLock",
    "fastrand",
    "tokio",
];

/// Where `unsafe` may stand.
const UNSAFE: [&str; 3] = ["kernel/", "node/", "net/socket.rs"];

/// Every source file: its path below `src`, and its lines without comments.
fn sources() -> Vec<(String, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut directories = vec![root.clone()];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("the source tree is there") {
            let path = entry.expect("the source tree is readable").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let text = std::fs::read_to_string(&file).expect("a source file is text");
            let name = file.strip_prefix(&root).expect("it is below");
            let lines = text.lines().map(without_comment).collect();
            (name.to_string_lossy().into_owned(), lines)
        })
        .collect()
}

fn without_comment(line: &str) -> String {
    line.split("//").next().unwrap_or_default().to_owned()
}

/// Whether `word` stands in `line` as a whole word.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |it: Option<char>| it.is_some_and(|it| it.is_alphanumeric() || it == '_');
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        !is_part(before.chars().next_back()) && !is_part(after.chars().next())
    })
}

/// `file:line: word` for each line of these files that has one of the words.
fn places(words: &[&str], is_meant: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (file, lines) in sources().iter().filter(|(file, _)| is_meant(file)) {
        for (number, line) in lines.iter().enumerate() {
            for word in words.iter().filter(|word| has_word(line, word)) {
                found.push(format!("{file}:{}: {word}", number + 1));
            }
        }
    }
    found
}

#[test]
fn pure_modules_know_no_io_clock_randomness_locks_or_async() {
    let is_pure = |file: &str| {
        PURE.iter()
            .any(|module| file.starts_with(&format!("{module}/")))
    };
    let found = places(&IMPURE, is_pure);
    assert!(found.is_empty(), "{}", found.join("\n"));
    let is_known = |file: &str| file.starts_with("source/");
    assert!(!places(&IMPURE, is_known).is_empty(), "the words are found");
}

#[test]
fn unsafe_stands_at_the_kernels_and_the_sockets_boundary_only() {
    let is_elsewhere = |file: &str| !UNSAFE.iter().any(|place| file.starts_with(place));
    let found = places(&["unsafe"], is_elsewhere);
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(
        !places(&["unsafe"], |_| true).is_empty(),
        "the word is found"
    );
}

#[test]
fn no_module_reaches_a_sibling_by_super() {
    let mut found = Vec::new();
    for (file, lines) in sources() {
        // `super` of `a.rs` and `a/mod.rs`, and twice of `a/b.rs`, is the crate itself; a test
        // module is one further down.
        if file == "lib.rs" || file == "main.rs" {
            continue;
        }
        let depth = file.matches('/').count() + usize::from(!file.ends_with("/mod.rs"));
        let tests_from = lines
            .iter()
            .position(|line| line.trim() == "mod tests {")
            .unwrap_or(usize::MAX);
        for (number, line) in lines.iter().enumerate() {
            let depth = depth + usize::from(number > tests_from || file.ends_with("_tests.rs"));
            if line.contains(&"super::".repeat(depth)) {
                found.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
