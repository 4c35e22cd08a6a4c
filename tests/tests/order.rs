//! The order of documents and files decides nothing: age, then name, then namespace do.

use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use mizzen_tests::evaluator::generate::{self, Ports};
use mizzen_tests::evaluator::model::Client;
use mizzen_tests::evaluator::yaml;
use proxy_user::compile::compile;
use proxy_user::settings::{CompileSettings, MeshSettings, NamespaceBudget, OnProxyDown};
use proxy_user::snapshot::dump::dump;
use proxy_user::source::state::{DirectoryState, FileText, Files};

/// Orders of each set of documents.
const SHUFFLES: usize = 5;

/// Snapshot, and findings without their places.
fn compiled(files: &Files) -> (String, Vec<String>) {
    let loaded = DirectoryState::new().apply(files);
    let settings = CompileSettings {
        node: "node-1".to_owned(),
        mesh: MeshSettings::default(),
        on_proxy_down: OnProxyDown::Degrade,
        is_capture_labelled: false,
        capture_host_network: false,
        accept_unenforced_policies: false,
        namespace_budget: NamespaceBudget::default(),
    };
    let compiled = compile(&loaded.objects, &settings);
    let findings = loaded.findings.iter().chain(&compiled.findings);
    let mut findings: Vec<String> = findings
        .map(|it| {
            let field = it.field.as_deref().unwrap_or_default();
            format!("{:?} {} {field} {}", it.object, it.severity, it.message)
        })
        .collect();
    findings.sort();
    (dump(&compiled.snapshot), findings)
}

/// The documents in some order, in one to four files.
fn shuffled(documents: &[&str], rng: &mut Rng) -> Files {
    let mut documents = documents.to_vec();
    rng.shuffle(&mut documents);
    let count = rng.usize(1..=4);
    let mut texts = vec![String::new(); count];
    for document in documents {
        let text = &mut texts[rng.usize(..count)];
        text.push_str("---\n");
        text.push_str(document);
        text.push('\n');
    }
    let named = texts.iter().enumerate();
    named
        .map(|(at, text)| {
            let name = format!("{at}.yaml");
            (Arc::from(name.as_str()), FileText::from(text.as_str()))
        })
        .collect()
}

fn check(what: &str, text: &str, rng: &mut Rng) {
    let documents: Vec<&str> = text.split("\n---\n").collect();
    let expected = compiled(&shuffled(&documents, rng));
    for _ in 0..SHUFFLES {
        let found = compiled(&shuffled(&documents, rng));
        assert_eq!(found.0, expected.0, "the snapshot of {what}");
        assert_eq!(found.1, expected.1, "the findings of {what}");
    }
}

#[test]
fn generated_meshes_compile_alike_in_any_order() {
    for seed in 0..100 {
        let mut rng = Rng::with_seed(seed);
        let ports = Ports {
            first: 8080,
            second: 8081,
        };
        let mesh = generate::mesh(&mut rng, ports);
        let clients: Vec<(Client, String)> = (0..3)
            .map(|at| (generate::client(&mut rng), format!("client-{at}")))
            .collect();
        let text = yaml::documents(&mesh, &clients);
        check(
            &format!("seed {seed}"),
            text.trim_start_matches("---\n"),
            &mut rng,
        );
    }
}

#[test]
fn golden_inputs_compile_alike_in_any_order() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let base = std::fs::read_to_string(root.join("base/shop.yaml")).expect("the base is there");
    let mut directories = vec![root.join("compile")];
    let mut rng = Rng::with_seed(1);
    let mut count = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("the inputs are there") {
            let path = entry.expect("the inputs are readable").path();
            if path.is_dir() {
                directories.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                let text = std::fs::read_to_string(&path).expect("an input is text");
                check(
                    &path.display().to_string(),
                    &format!("{base}\n---\n{text}"),
                    &mut rng,
                );
                count += 1;
            }
        }
    }
    assert!(count > 100, "{count} inputs");
}
