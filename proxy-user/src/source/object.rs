//! Documents to typed objects: which kind, which name, every field in its
//! place. One object of the wrong shape concerns nobody but itself.
//!
//! Start at [`read_file`].

use std::collections::BTreeMap;
use std::sync::Arc;

use super::document::{SyntaxError, for_each_document};
use super::node::{Node, Value};
use super::parts::split;
use super::problem::TypeProblem;
use super::share::Shared;
use super::typed;
use crate::api::honoured::{HonouredValues, find_not_honoured};
use crate::api::validate::{self, Validate};
use crate::api::{
    AuthorizationPolicy, ConfigMap, DestinationRule, EndpointSlice, EnvoyFilter, Gateway, InSet,
    Kind, Namespace, Node as KubernetesNode, Object, ObjectKey, ObjectMeta, ObjectSet,
    PeerAuthentication, Pod, RequestAuthentication, Secret, Service, ServiceEntry, Sidecar,
    SourceMap, VirtualService, WorkloadEntry, WorkloadGroup,
};
use crate::finding::{Finding, ObjectRef, Origin, Severity};

/// Namespace of objects whose document names none.
const NAMESPACE_DEFAULT: &str = "default";

/// What one file holds.
#[derive(Debug, Default)]
pub struct FileContent {
    /// Its objects, good and bad, in the order written.
    pub objects: Vec<ReadObject>,
    /// What is wrong with documents that are not even objects.
    pub findings: Vec<Finding>,
    /// How many objects do not concern traffic, by kind.
    pub skipped: BTreeMap<String, usize>,
}

/// What makes an object the same one, wherever it stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub key: ObjectKey,
}

/// One object of a file. A mesh has very many.
#[derive(Debug)]
pub struct ReadObject {
    /// Kind and name.
    pub identity: Identity,
    /// Where it begins.
    pub line: u32,
    /// What is wrong with it.
    pub findings: Box<[Finding]>,
    /// The object; `None` if it is refused.
    pub object: Option<AnyObject>,
    /// Where the same object stands before, whose place it does not take.
    pub shadowed_by: Option<Box<Origin>>,
}

impl ReadObject {
    /// Where it begins; `file` is the one that it was read from.
    pub fn origin(&self, file: &Arc<str>) -> Origin {
        Origin {
            file: file.clone(),
            line: self.line,
        }
    }

    /// Puts the object into `set`, unless it is refused. One that is there and equal stays,
    /// and takes the place of this copy.
    pub fn put_into(&mut self, set: &mut ObjectSet) {
        if let Some(object) = &mut self.object {
            object.put_into(set, &self.identity.key);
        }
    }
}

/// Reads all objects of one file; `file` is its name in findings.
///
/// # Errors
///
/// The first place at which the text does not parse.
pub fn read_file(
    file: &Arc<str>,
    bytes: &[u8],
    shared: &Shared,
) -> Result<FileContent, SyntaxError> {
    let mut reader = Reader {
        file,
        shared,
        content: FileContent::default(),
    };
    for_each_document(bytes, |document| reader.read_document(document, None))?;
    reader.content.objects.shrink_to_fit();
    Ok(reader.content)
}

/// What a list says about its entries.
#[derive(Clone)]
struct TypeMeta {
    api_version: String,
    kind: String,
}

struct Reader<'a> {
    file: &'a Arc<str>,
    shared: &'a Shared,
    content: FileContent,
}

impl Reader<'_> {
    fn read_document(&mut self, document: Node, inherited: Option<&TypeMeta>) {
        let line = document.line;
        let text_of = |key: &str| document.get(key).and_then(Node::as_text).map(str::to_owned);
        if document.entries().is_empty() {
            let found = document.describe();
            return self.refuse_document(line, format!("expected an object, found {found}"));
        }
        let kind = text_of("kind").or_else(|| inherited.map(|meta| meta.kind.clone()));
        let api_version =
            text_of("apiVersion").or_else(|| inherited.map(|meta| meta.api_version.clone()));
        let (Some(kind), Some(api_version)) = (kind, api_version) else {
            let message = "expected an object with apiVersion and kind".to_owned();
            return self.refuse_document(line, message);
        };
        let is_list = document
            .get("items")
            .is_some_and(|items| !items.items().is_empty());
        if kind.ends_with("List") && (is_list || kind == "List") {
            return self.read_list(document, TypeMeta { api_version, kind });
        }
        self.read_object(document, &TypeMeta { api_version, kind });
    }

    fn read_list(&mut self, document: Node, meta: TypeMeta) {
        let Value::Mapping(entries) = document.value else {
            return;
        };
        // `kubectl get` prints kind List; an API server's VirtualServiceList leaves the
        // entries' own kind out.
        let element_kind = meta.kind.strip_suffix("List").unwrap_or_default();
        let element = TypeMeta {
            kind: element_kind.to_owned(),
            ..meta
        };
        let inherited = (!element.kind.is_empty()).then_some(&element);
        for entry in entries {
            if &*entry.key != "items" {
                continue;
            }
            if let Value::Sequence(items) = entry.value.value {
                for item in items {
                    self.read_document(item, inherited);
                }
            }
        }
    }

    fn read_object(&mut self, document: Node, meta: &TypeMeta) {
        let (group, version) = meta
            .api_version
            .split_once('/')
            .unwrap_or(("", &meta.api_version));
        let known = Kind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == meta.kind && kind.group_versions().0 == group);
        let metadata = document.get("metadata");
        let name = metadata
            .and_then(|metadata| metadata.get("name"))
            .and_then(Node::as_text);
        let namespace = metadata
            .and_then(|metadata| metadata.get("namespace"))
            .and_then(Node::as_text);
        let Some(kind) = known else {
            let name = name.unwrap_or_default().to_owned();
            return self.skip(group, &meta.kind, namespace, &name, document.line);
        };
        let namespace = match namespace {
            _ if !kind.is_namespaced() => "",
            None | Some("") => NAMESPACE_DEFAULT,
            Some(namespace) => namespace,
        };
        let line = document.line;
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            let problem = match document.find_invalid() {
                Some((path, line, message)) => TypeProblem {
                    path,
                    line,
                    message: message.into(),
                },
                None => TypeProblem {
                    path: "metadata.name".to_owned(),
                    line: metadata.map_or(line, |metadata| metadata.line),
                    message: "expected a name, as text".to_owned(),
                },
            };
            let nameless = ObjectKey::new(namespace, "");
            let finding = problem.into_finding(kind, self.file, &nameless);
            return self.content.findings.push(finding);
        };
        let key = ObjectKey::new(namespace, name);
        let versions = kind.group_versions().1;
        let outcome = if versions.contains(&version) {
            read_kind(kind, self, document, &key)
        } else {
            let expected = versions.join(", ");
            let message = format!("unknown version {version:?}; expected one of {expected}");
            let problem = TypeProblem {
                path: "apiVersion".to_owned(),
                line,
                message,
            };
            Outcome::refused(problem.into_finding(kind, self.file, &key))
        };
        let Outcome { object, findings } = outcome;
        let key = match &object {
            Some(object) => object.key(),
            None => key,
        };
        self.content.objects.push(ReadObject {
            identity: Identity { kind, key },
            line,
            findings: findings.into(),
            object,
            shadowed_by: None,
        });
    }

    /// Counts what does not concern traffic; says so where it might have.
    fn skip(&mut self, group: &str, kind: &str, namespace: Option<&str>, name: &str, line: u32) {
        const KINDS_MAX: usize = 256; // distinct names; a file cannot fill memory with them
        let skipped = &mut self.content.skipped;
        if skipped.contains_key(kind) || skipped.len() < KINDS_MAX {
            *skipped.entry(kind.to_owned()).or_default() += 1;
        }
        let concerns_traffic = group.ends_with("istio.io") || group == "gateway.networking.k8s.io";
        if concerns_traffic {
            let message = format!("kind {kind} of {group} is not read; it has no effect");
            let object = ObjectRef::new(
                kind.to_owned(),
                namespace.unwrap_or(NAMESPACE_DEFAULT),
                name,
            );
            let finding = Finding::new(Severity::Warning, "kind-not-read", message)
                .with_origin(Origin {
                    file: self.file.clone(),
                    line,
                })
                .with_object(object);
            self.content.findings.push(finding);
        }
    }

    fn refuse_document(&mut self, line: u32, message: String) {
        let finding = Finding::new(Severity::Error, "not-an-object", message).with_origin(Origin {
            file: self.file.clone(),
            line,
        });
        self.content.findings.push(finding);
    }
}

impl TypeProblem {
    fn into_finding(self, kind: Kind, file: &Arc<str>, key: &ObjectKey) -> Finding {
        let field = self
            .path
            .strip_prefix("spec.")
            .unwrap_or(&self.path)
            .to_owned();
        let finding = Finding::new(Severity::Error, "schema", self.message)
            .with_origin(Origin {
                file: file.clone(),
                line: self.line,
            })
            .with_object(ObjectRef::new(kind.as_str(), &key.namespace, &key.name));
        if field.is_empty() {
            finding
        } else {
            finding.with_field(field)
        }
    }
}

/// A typed object, or none if it is refused, and what was found.
struct Outcome {
    object: Option<AnyObject>,
    findings: Vec<Finding>,
}

impl Outcome {
    fn refused(finding: Finding) -> Self {
        Self {
            object: None,
            findings: vec![finding],
        }
    }
}

/// The kinds of [`AnyObject`]: one variant, one reader, one place in the set each.
macro_rules! any_object {
    ($($kind:ident: $spec:ty,)*) => {
        /// An object of any kind. Cloning copies a pointer.
        #[derive(Debug, Clone)]
        #[expect(missing_docs, reason = "each variant is the kind of that name")]
        pub enum AnyObject {
            $($kind(Arc<Object<$spec>>),)*
        }

        impl AnyObject {
            /// Namespace and name.
            pub fn key(&self) -> ObjectKey {
                match self {
                    $(Self::$kind(object) => object.key(),)*
                }
            }

            fn put_into(&mut self, set: &mut ObjectSet, key: &ObjectKey) {
                match self {
                    $(Self::$kind(object) => put(set, key, object),)*
                }
            }

            /// Whether `set` has the object.
            pub fn is_in(set: &ObjectSet, Identity { kind, key }: &Identity) -> bool {
                match kind {
                    $(Kind::$kind => <$spec>::objects(set).contains_key(key),)*
                }
            }

            /// Takes the object out of `set`.
            pub fn remove(set: &mut ObjectSet, Identity { kind, key }: &Identity) {
                match kind {
                    $(Kind::$kind => {
                        <$spec>::objects_mut(set).remove(key);
                    })*
                }
            }
        }

        fn read_kind(
            kind: Kind,
            reader: &Reader<'_>,
            document: Node,
            key: &ObjectKey,
        ) -> Outcome {
            match kind {
                $(Kind::$kind => read_as::<$spec>(reader, document, key, AnyObject::$kind),)*
            }
        }
    };
}

any_object! {
    VirtualService: VirtualService,
    DestinationRule: DestinationRule,
    ServiceEntry: ServiceEntry,
    WorkloadEntry: WorkloadEntry,
    WorkloadGroup: WorkloadGroup,
    Gateway: Gateway,
    Sidecar: Sidecar,
    EnvoyFilter: EnvoyFilter,
    AuthorizationPolicy: AuthorizationPolicy,
    PeerAuthentication: PeerAuthentication,
    RequestAuthentication: RequestAuthentication,
    Service: Service,
    EndpointSlice: EndpointSlice,
    Pod: Pod,
    Namespace: Namespace,
    Node: KubernetesNode,
    Secret: Secret,
    ConfigMap: ConfigMap,
}

fn put<S: InSet>(set: &mut ObjectSet, key: &ObjectKey, object: &mut Arc<Object<S>>) {
    match S::objects(set).get(key) {
        Some(present) if present == object => *object = Arc::clone(present),
        Some(_) | None => {
            S::objects_mut(set).insert(key.clone(), Arc::clone(object));
        }
    }
}

fn read_as<S: InSet + Validate + HonouredValues>(
    reader: &Reader<'_>,
    document: Node,
    key: &ObjectKey,
    wrap: fn(Arc<Object<S>>) -> AnyObject,
) -> Outcome {
    let file = reader.file;
    let mut object = match read_typed::<S>(file, document, key) {
        Ok(object) => object,
        Err(problem) => return Outcome::refused(problem.into_finding(S::KIND, file, key)),
    };
    let checked = validate::check(&object);
    let mut findings = checked.findings;
    if checked.is_refused {
        return Outcome {
            object: None,
            findings,
        };
    }
    findings.extend(find_not_honoured(&object));
    reader.shared.share(&mut object);
    Outcome {
        object: Some(wrap(Arc::new(object))),
        findings,
    }
}

fn read_typed<S: InSet>(
    file: &Arc<str>,
    document: Node,
    key: &ObjectKey,
) -> Result<Object<S>, TypeProblem> {
    let line = document.line;
    if let Some((path, line, message)) = document.find_invalid() {
        return Err(TypeProblem {
            path,
            line,
            message: message.to_owned(),
        });
    }
    let parts = split(document, S::BODY, is_strict(S::KIND))?;
    let at_object = |mut problem: TypeProblem| {
        if problem.line == 0 {
            problem.line = line;
        }
        problem
    };
    let mut meta: ObjectMeta = typed::read(&parts.metadata, "metadata").map_err(at_object)?;
    meta.namespace.clone_from(&key.namespace);
    let spec: S = typed::read(&parts.body, "").map_err(at_object)?;
    let status: S::Status = typed::read(&parts.status, "status").map_err(at_object)?;

    let mut lines = Vec::new();
    parts
        .body
        .collect_lines("", lines_depth(S::KIND), &mut lines);
    parts.metadata.collect_lines("metadata", 2, &mut lines);
    let source = SourceMap::new(file.clone(), line, lines).with_len(parts.body.len_bytes());
    Ok(Object {
        meta,
        spec,
        status,
        source,
    })
}

/// Whether a field that the kind does not have refuses the object. Kubernetes'
/// kinds have many fields that are none of ours.
fn is_strict(kind: Kind) -> bool {
    kind.group_versions().0 == "networking.istio.io"
}

/// How deep the places of fields are kept. Rules are few and their fields get
/// findings; endpoints and pods are many and get none about a single field.
fn lines_depth(kind: Kind) -> usize {
    if is_strict(kind) || kind == Kind::Service {
        usize::MAX
    } else {
        1
    }
}
