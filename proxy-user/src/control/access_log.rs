//! The access log is opened once, at the start; what the mesh says later is a finding.

use crate::finding::{Finding, ObjectRef, Severity};
use crate::settings::{AccessLogEncoding, MeshSettings};

/// What the mesh says about the access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccessLogTarget {
    /// `accessLogFile`; empty is off.
    pub(crate) file: String,
    /// `accessLogEncoding`.
    pub(crate) encoding: AccessLogEncoding,
}

impl AccessLogTarget {
    /// Of these settings.
    pub(crate) fn of(mesh: &MeshSettings) -> Self {
        Self {
            file: mesh.access_log_file.clone(),
            encoding: mesh.access_log_encoding,
        }
    }
}

/// What came of the access log at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccessLogState {
    /// Where lines go.
    pub(crate) current: AccessLogTarget,
    /// What the mesh asked for and could not be opened, with the cause.
    pub(crate) failed: Option<(AccessLogTarget, String)>,
}

impl AccessLogState {
    /// Says so when lines do not go where the mesh wants them.
    pub(crate) fn find_difference(
        &self,
        mesh: &MeshSettings,
        root_namespace: &str,
    ) -> Option<Finding> {
        let wanted = AccessLogTarget::of(mesh);
        if wanted == self.current {
            return None;
        }
        let now = match self.current.file.as_str() {
            "" => "off",
            file => file,
        };
        let failed = self.failed.as_ref().filter(|(failed, _)| *failed == wanted);
        let finding = match failed {
            Some((_, cause)) => Finding::new(
                Severity::Error,
                "access-log",
                format!("{cause}; the access log is {now} until the daemon starts anew"),
            ),
            None => Finding::new(
                Severity::Warning,
                "access-log-restart",
                format!(
                    "accessLogFile or accessLogEncoding has changed; the access log stays as it \
                     is ({now}) until the daemon starts anew"
                ),
            ),
        };
        let config_map = ObjectRef::new("ConfigMap", root_namespace, "istio");
        Some(finding.with_object(config_map).with_field("data.mesh"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_opened_is_an_error_and_what_has_changed_a_warning() {
        let mesh = |file: &str| MeshSettings {
            access_log_file: file.to_owned(),
            ..MeshSettings::default()
        };
        let failed = (
            AccessLogTarget::of(&mesh("/bad")),
            "no such file".to_owned(),
        );
        for (current, failed, wanted, expected) in [
            ("/a", None, "/a", None),
            (
                "/a",
                None,
                "/b",
                Some("warning: data.mesh: accessLogFile or"),
            ),
            (
                "",
                Some(failed.clone()),
                "/bad",
                Some("error: data.mesh: no such file; the"),
            ),
            (
                "",
                Some(failed),
                "/b",
                Some("warning: data.mesh: accessLogFile or"),
            ),
        ] {
            let state = AccessLogState {
                current: AccessLogTarget::of(&mesh(current)),
                failed,
            };
            let found = state.find_difference(&mesh(wanted), "istio-system");
            let found = found.map(|finding| finding.to_string());
            match expected {
                None => assert_eq!(found, None),
                Some(part) => assert!(
                    found.as_ref().is_some_and(|f| f.contains(part)),
                    "{found:?}"
                ),
            }
        }
    }
}
