use super::*;

const TIMES: WatchTimes = WatchTimes {
    debounce: Duration::from_millis(20),
    settle_max: Duration::from_millis(500),
    poll: Duration::from_millis(200),
};

fn sidecar(name: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: {name}}}\n\
             spec: {{egress: [{{hosts: ['./*']}}]}}\n"
    )
}

fn names(loaded: &Loaded) -> Vec<String> {
    loaded
        .objects
        .sidecars
        .keys()
        .map(|key| key.name.to_string())
        .collect()
}

/// Waits until the names in force are `expected`.
fn wait_for(source: &DirectorySource, expected: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while names(&source.updates.borrow()) != expected {
        let last = names(&source.updates.borrow());
        assert!(
            Instant::now() < deadline,
            "expected {expected:?}, last seen {last:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_way_of_changing_a_directory_is_followed() {
    let root = tempfile::tempdir().expect("a directory");
    let path = |name: &str| root.path().join(name);
    let write = |name: &str, text: &str| fs::write(path(name), text).expect("written");
    write("a.yaml", &sidecar("one"));
    write(".hidden.yaml", &sidecar("hidden"));
    write("notes.txt", "no YAML: [");
    let source = spawn_directory_source(root.path(), TIMES).expect("it is there");
    wait_for(&source, &["one"]);

    write("a.yaml", &sidecar("two")); // in place
    wait_for(&source, &["two"]);
    write("a.tmp", &sidecar("three"));
    fs::rename(path("a.tmp"), path("a.yaml")).expect("renamed over it");
    wait_for(&source, &["three"]);
    fs::create_dir(path("sub")).expect("made");
    write(
        "sub/b.json",
        "{\"kind\": \"Sidecar\", \"apiVersion\": \"networking.istio.io/v1\",\
               \n\t\"metadata\": {\"name\": \"json\"}, \"spec\": {\"egress\": [{\"hosts\": [\"./*\"]}]}}",
    );
    wait_for(&source, &["json", "three"]);
    fs::remove_file(path("a.yaml")).expect("removed");
    wait_for(&source, &["json"]);
    fs::remove_dir_all(path("sub")).expect("removed");
    wait_for(&source, &[]);
}

#[test]
fn a_mounted_config_map_is_followed_through_its_links() {
    let root = tempfile::tempdir().expect("a directory");
    let path = |name: &str| root.path().join(name);
    let link = |to: &str, from: &str| {
        std::os::unix::fs::symlink(to, path(from)).expect("linked");
    };
    for (version, name) in [("..v1", "one"), ("..v2", "two")] {
        fs::create_dir(path(version)).expect("made");
        fs::write(path(version).join("a.yaml"), sidecar(name)).expect("written");
    }
    link("..v1", "..data");
    link("..data/a.yaml", "a.yaml");
    let source = spawn_directory_source(root.path(), TIMES).expect("it is there");
    wait_for(&source, &["one"]);
    link("..v2", "..data_tmp");
    fs::rename(path("..data_tmp"), path("..data")).expect("swapped");
    wait_for(&source, &["two"]);
}

#[test]
fn a_directory_that_goes_away_keeps_its_objects_and_is_found_again() {
    let root = tempfile::tempdir().expect("a directory");
    let (here, away) = (root.path().join("here"), root.path().join("away"));
    fs::create_dir(&here).expect("made");
    fs::write(here.join("a.yaml"), sidecar("one")).expect("written");
    let source = spawn_directory_source(&here, TIMES).expect("it is there");
    fs::rename(&here, &away).expect("moved");
    let deadline = Instant::now() + Duration::from_secs(10);
    while source.updates.borrow().findings.is_empty() {
        assert!(Instant::now() < deadline, "no finding about the directory");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(names(&source.updates.borrow()), ["one"]);
    fs::create_dir(&here).expect("made");
    fs::write(here.join("b.yaml"), sidecar("two")).expect("written");
    wait_for(&source, &["two"]);
    fs::write(here.join("b.yaml"), sidecar("three")).expect("written");
    wait_for(&source, &["three"]);
}

#[test]
fn a_file_that_is_emptied_and_filled_again_never_shows_as_empty() {
    let root = tempfile::tempdir().expect("a directory");
    let file = root.path().join("a.yaml");
    fs::write(&file, sidecar("one")).expect("written");
    let mut source = spawn_directory_source(root.path(), TIMES).expect("it is there");
    fs::write(&file, "").expect("emptied");
    std::thread::sleep(TIMES.debounce * 2); // longer than one burst of changes
    fs::write(&file, sidecar("two")).expect("filled");
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let seen = names(&source.updates.borrow_and_update());
        assert!(!seen.is_empty() && Instant::now() < deadline, "{seen:?}");
        if seen == ["two"] {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_look_at_paths_names_files_as_they_were_given() {
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("a.yaml"), "").expect("written");
    fs::write(root.path().join("b.conf"), "").expect("written");
    let paths = [root.path().to_owned(), root.path().join("b.conf")];
    let files = read_paths(&paths).expect("they are there");
    let expected: Vec<String> = ["a.yaml", "b.conf"]
        .map(|name| root.path().join(name).to_string_lossy().into_owned())
        .into();
    assert_eq!(
        files.keys().map(ToString::to_string).collect::<Vec<_>>(),
        expected
    );
    assert!(read_paths(&[root.path().join("missing")]).is_err());
}
