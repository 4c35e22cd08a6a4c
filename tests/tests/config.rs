//! Every file in `config/` is read without a finding, so that examples cannot rot.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proxy_user::source::state::{DirectoryState, FileText, Files};

fn yaml_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("config is there") {
        let path = entry.expect("config is readable").path();
        if path.is_dir() {
            yaml_files(&path, found);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            found.push(path);
        }
    }
}

#[test]
fn every_file_in_config_is_read_without_a_finding() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let mut paths = Vec::new();
    yaml_files(&root, &mut paths);
    assert!(paths.len() >= 14, "config has lost files: {paths:?}");
    for path in paths {
        let bytes = std::fs::read(&path).expect("a listed file");
        let name: Arc<str> = Arc::from(path.display().to_string());
        // Each alone: the steps of the demo replace one another's objects.
        let files = Files::from([(name, FileText::Read(bytes))]);
        let loaded = DirectoryState::new().apply(&files);
        let findings: Vec<String> = loaded.findings.iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "{findings:#?}");
    }
}
