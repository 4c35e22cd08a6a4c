//! The mesh's settings as the cluster carries them: the ConfigMap `istio`.

use crate::api::{Kind, ObjectKey, ObjectSet};
use crate::finding::{Finding, ObjectRef, Severity};
use crate::settings::MeshConfig;

/// Name of the ConfigMap, and of the key in it. Source: Istio, pkg/config/mesh/kubemesh.
const CONFIG_MAP: &str = "istio";
const KEY: &str = "mesh";

/// MeshConfig from the ConfigMap `istio` in `root_namespace`, if there is one. A document
/// that cannot be read is an error finding and counts as absent; each field that is not
/// acted on is a warning.
pub fn mesh_config(
    objects: &ObjectSet,
    root_namespace: &str,
    findings: &mut Vec<Finding>,
) -> Option<MeshConfig> {
    let key = ObjectKey::new(root_namespace, CONFIG_MAP);
    let object = objects.config_maps.get(&key)?;
    let text = object.spec.data.get(KEY)?;
    let finding = |severity, code, message: String| {
        Finding::new(severity, code, message)
            .with_object(ObjectRef::new(
                Kind::ConfigMap.as_str(),
                root_namespace,
                CONFIG_MAP,
            ))
            .with_origin(object.source.origin("data.mesh"))
    };
    match MeshConfig::parse("data.mesh", text) {
        Ok(config) => {
            findings.extend(config.ignored.iter().map(|field| {
                let message = "not honoured yet, the mesh acts without it";
                finding(Severity::Warning, "mesh-not-honoured", message.to_owned())
                    .with_field(format!("data.mesh.{field}"))
            }));
            Some(config)
        }
        Err(error) => {
            findings.push(finding(Severity::Error, "mesh-config", error.to_string()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::state::{DirectoryState, Files};

    fn load(mesh: &str) -> (Option<MeshConfig>, Vec<String>) {
        let text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\n\
             data:\n  mesh: |-\n    {}\n",
            mesh.replace('\n', "\n    ")
        );
        let files = Files::from([("istio.yaml".into(), (&*text).into())]);
        let loaded = DirectoryState::new().apply(&files);
        assert!(loaded.findings.is_empty(), "{:?}", loaded.findings);
        let mut findings = Vec::new();
        let config = mesh_config(&loaded.objects, "istio-system", &mut findings);
        (config, findings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_config_map_is_found_and_what_it_cannot_do_is_said() {
        let (config, findings) =
            load("outboundTrafficPolicy:\n  mode: REGISTRY_ONLY\nenableTracing: true");
        assert!(config.is_some_and(|config| config.settings().is_registry_only));
        assert_eq!(findings.len(), 1);
        let text = "ConfigMap/istio-system/istio: warning: data.mesh.enableTracing: not honoured";
        assert!(findings[0].contains(text), "{findings:?}");

        let (config, findings) = load("connectTimeout: 5");
        assert!(config.is_none());
        assert!(
            findings[0].contains("error: data.mesh: connectTimeout"),
            "{findings:?}"
        );
    }
}
