//! Inputs that earlier runs of `cargo xtask prove` kept: each showed something that no other did.

use std::path::Path;

use mizzen_tests::prove::features;

/// Panics are what is looked for; [`features`] also compares two runs and two orders.
#[test]
fn kept_objects_compile_twice_and_in_any_order_to_the_same() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/objects");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).expect("the corpus is there") {
        let path = entry.expect("the corpus is readable").path();
        let text = std::fs::read_to_string(&path).expect("the corpus is text");
        assert!(
            !features(&text).is_empty(),
            "{} shows nothing",
            path.display()
        );
        count += 1;
    }
    assert!(count >= 20, "{count} inputs");
}
