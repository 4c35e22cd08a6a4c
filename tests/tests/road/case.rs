//! The cases, read from `tests/checklist`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

/// Objects and requests of one line, or of lines that share their objects.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// Checklist ids.
    pub(crate) id: String,
    /// YAML, beside the common mesh.
    #[serde(default)]
    pub(crate) objects: String,
    /// `registryOnly`, and `patient`: half a minute for undeclared ports.
    #[serde(default)]
    pub(crate) settings: Vec<String>,
    pub(crate) asks: Vec<Ask>,
}

/// One request and what must come of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ask {
    /// `namespace/pod`.
    #[serde(default = "client")]
    pub(crate) from: String,
    /// The service that is dialled, and its port.
    #[serde(default = "service")]
    pub(crate) to: String,
    /// Method and target, and the version if it is not HTTP/1.1.
    #[serde(default = "request")]
    pub(crate) send: String,
    #[serde(default = "host")]
    pub(crate) host: String,
    /// Header lines, in order.
    #[serde(default)]
    pub(crate) headers: Vec<(String, String)>,
    /// How often, for shares; else once.
    #[serde(default)]
    pub(crate) times: u32,
    /// Of a hundred, by server.
    #[serde(default)]
    pub(crate) shares: BTreeMap<String, f64>,
    /// 0: the connection ends without an answer.
    #[serde(default = "ok")]
    pub(crate) status: u16,
    /// `service` or `service/version`; `nobody`.
    pub(crate) served: Option<String>,
    /// The target that the server read.
    pub(crate) path: Option<String>,
    pub(crate) body: Option<String>,
    /// Lines of headers that the server read.
    #[serde(default)]
    pub(crate) sees: BTreeMap<String, Vec<String>>,
    /// Lines of headers that the client got.
    #[serde(default)]
    pub(crate) answers: BTreeMap<String, Vec<String>>,
}

fn client() -> String {
    "ns1/client".to_owned()
}

fn service() -> String {
    "a:80".to_owned()
}

fn request() -> String {
    "GET /".to_owned()
}

fn host() -> String {
    "a".to_owned()
}

fn ok() -> u16 {
    200
}

/// All cases, with the file they stand in.
pub(crate) fn cases() -> Vec<(String, Case)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("checklist");
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(directory).expect("the cases are there") {
        let path = entry.expect("the cases are readable").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let text = std::fs::read_to_string(&path).expect("cases are text");
        let file: Vec<Case> =
            serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        cases.extend(file.into_iter().map(|case| (name.clone(), case)));
    }
    cases
}
