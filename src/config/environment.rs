//! The environment layer: `CACHESRV_*`, and nothing else of the environment; and the command line as the
//! system hands it over.
//!
//! Every variable with our prefix must be one of ours, for a misspelt one that is silently ignored
//! costs an evening. Two exceptions, both set by machines and not by people: what Kubernetes and Docker
//! add for a service that is called `cachesrv`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::settings::SETTINGS;
use super::{ConfigError, Given, Source};

const PREFIX: &str = "CACHESRV_";

/// Names the configuration file.
const CONFIG_FILE: &str = "CACHESRV_CONFIG";

/// The variables with our prefix, sorted by name; a value that is not UTF-8 stays as it is.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: Vec<(String, OsString)>,
}

/// The command line of this process, the name of the program included.
pub fn arguments() -> Vec<OsString> {
    std::env::args_os().collect()
}

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Self {
        std::env::vars_os().collect()
    }

    /// The configuration file that the environment names.
    pub(super) fn config_file(&self) -> Result<Option<PathBuf>, ConfigError> {
        let variable = self.variables.iter().find(|(name, _)| name == CONFIG_FILE);
        match variable {
            Some((name, value)) if value.is_empty() => Err(ConfigError::new(
                name,
                "is empty, write the path of a file or unset it",
            )),
            Some((_, value)) => Ok(Some(PathBuf::from(value))),
            None => Ok(None),
        }
    }

    /// The settings that the environment gives.
    pub(super) fn settings(&self) -> Result<Vec<Given>, ConfigError> {
        let ours = self
            .variables
            .iter()
            .filter(|(name, value)| !is_not_a_setting(name, value));
        ours.map(|(name, value)| setting(name, value)).collect()
    }
}

impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(variables: I) -> Self {
        let readable = |(name, value): (OsString, OsString)| {
            let name = name.to_string_lossy().into_owned();
            name.starts_with(PREFIX).then_some((name, value))
        };
        let mut variables: Vec<_> = variables.into_iter().filter_map(readable).collect();
        variables.sort();
        Self { variables }
    }
}

fn setting(name: &str, value: &OsStr) -> Result<Given, ConfigError> {
    let setting = SETTINGS
        .iter()
        .find(|setting| setting.variable() == name)
        .ok_or_else(|| ConfigError::unknown_variable(name))?;
    let text = value
        .to_str()
        .ok_or_else(|| ConfigError::new(name, "its value is not UTF-8"))?;
    Ok(Given {
        setting,
        text: text.to_owned(),
        source: Source::Variable(name.to_owned()),
    })
}

/// Whether a variable with our prefix means something else than a setting.
fn is_not_a_setting(name: &str, value: &OsStr) -> bool {
    name == CONFIG_FILE || is_service_link(name, value)
}

/// Whether Kubernetes or Docker set this variable for a service called `cachesrv`: it tells every
/// container beside it where the service is, by `CACHESRV_SERVICE_HOST`, `CACHESRV_PORT=tcp://…` and
/// `CACHESRV_PORT_8787_TCP_ADDR`. Names and values are checked so far that a person's
/// `CACHESRV_PORT=8787` is still the mistake it is.
fn is_service_link(name: &str, value: &OsStr) -> bool {
    let name = name.strip_prefix(PREFIX).unwrap_or(name);
    if name == "SERVICE_HOST" || name == "SERVICE_PORT" || name.starts_with("SERVICE_PORT_") {
        return true;
    }
    if name == "PORT" {
        let value = value.to_string_lossy();
        return ["tcp://", "udp://", "sctp://"]
            .iter()
            .any(|scheme| value.starts_with(scheme));
    }
    let number = name
        .strip_prefix("PORT_")
        .and_then(|rest| rest.split_once('_'));
    number.is_some_and(|(port, rest)| {
        port.parse::<u16>().is_ok() && ["TCP", "UDP", "SCTP"].iter().any(|p| rest.starts_with(p))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect()
    }

    fn problem(variables: &[(&str, &str)]) -> String {
        environment(variables)
            .settings()
            .expect_err("an error")
            .to_string()
    }

    #[test]
    fn variables_of_others_are_not_looked_at() {
        let others = environment(&[("PATH", "/bin"), ("NX_CACHE", "x"), ("XCACHESRV_DB", "y")]);
        assert!(others.settings().unwrap().is_empty());
    }

    #[test]
    fn service_links_are_left_alone() {
        let links = environment(&[
            ("CACHESRV_SERVICE_HOST", "10.0.0.7"),
            ("CACHESRV_SERVICE_PORT", "8787"),
            ("CACHESRV_SERVICE_PORT_HTTP", "8787"),
            ("CACHESRV_PORT", "tcp://10.0.0.7:8787"),
            ("CACHESRV_PORT_8787_TCP", "tcp://10.0.0.7:8787"),
            ("CACHESRV_PORT_8787_TCP_PROTO", "tcp"),
            ("CACHESRV_PORT_8787_TCP_PORT", "8787"),
            ("CACHESRV_PORT_8787_TCP_ADDR", "10.0.0.7"),
        ]);
        assert!(links.settings().unwrap().is_empty());
    }

    #[test]
    fn what_only_looks_like_a_service_link_is_an_error() {
        for (name, value) in [
            ("CACHESRV_PORT", "8787"),
            ("CACHESRV_PORT_X_TCP", ""),
            ("CACHESRV_SERVICE", "1"),
        ] {
            assert_eq!(
                problem(&[(name, value)]),
                format!("{name}: unknown variable")
            );
        }
    }

    #[test]
    fn an_unknown_variable_does_not_show_its_value() {
        let message = problem(&[("CACHESRV_TOKEN", "csrv_secret")]);
        assert_eq!(message, "CACHESRV_TOKEN: unknown variable");
    }

    #[test]
    fn names_and_values_that_are_not_utf8_are_errors() {
        let raw = |name: &[u8], value: &[u8]| -> Environment {
            let pair = (
                OsString::from_vec(name.to_vec()),
                OsString::from_vec(value.to_vec()),
            );
            [pair].into_iter().collect()
        };
        let value = raw(b"CACHESRV_DB", b"\xff.db")
            .settings()
            .expect_err("an error");
        assert_eq!(value.to_string(), "CACHESRV_DB: its value is not UTF-8");
        let name = raw(b"CACHESRV_D\xff", b"x")
            .settings()
            .expect_err("an error");
        assert!(name.to_string().contains("unknown variable"), "{name}");
    }

    #[test]
    fn the_first_mistake_by_name_is_reported_whatever_the_order() {
        let mistakes = [("CACHESRV_ZZZ", ""), ("CACHESRV_QQQ", "")];
        let reversed = [mistakes[1], mistakes[0]];
        assert_eq!(problem(&mistakes), "CACHESRV_QQQ: unknown variable");
        assert_eq!(problem(&reversed), "CACHESRV_QQQ: unknown variable");
    }
}
