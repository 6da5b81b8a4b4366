//! Variables with the prefix of this program that are none of its settings: a misspelt name
//! would be ignored silently.

use crate::config::{Dotenv, documented, escape, knows};

use super::suggestions::nearest;

const PREFIX: &str = "TERMITARY_";
/// Variables that others read: the library's fail points, and the files in `deploy/`.
const OTHERS: &[&str] = &["TERMITARY_FAILPOINT", "TERMITARY_BIN", "TERMITARY_DIR"];

/// One warning for each such variable of the environment and of `.env`.
pub(super) fn settings(dotenv: &Dotenv) -> Vec<String> {
    let set = std::env::vars_os().filter_map(|(name, text)| {
        let name = name.into_string().ok()?;
        Some((name, text.to_string_lossy().into_owned()))
    });
    let set: Vec<(String, String)> = set.collect();
    let environment = set.iter().map(|(name, text)| (&**name, &**text, None));
    let in_environment = |name: &str| set.iter().any(|(known, _)| known == name);
    let file = dotenv
        .variables()
        .filter(|(name, ..)| !in_environment(name))
        .map(|(name, text, place)| (name, text, Some(place)));
    let unknown = environment
        .chain(file)
        .filter(|(name, text, _)| !text.trim().is_empty() && is_unknown(name, text));
    unknown
        .map(|(name, _, place)| warning(name, place.as_deref()))
        .collect()
}

/// The variables that the tests of this project read.
const OF_TESTS: &str = "TERMITARY_TEST_";

fn is_unknown(name: &str, text: &str) -> bool {
    name.starts_with(PREFIX)
        && !name.starts_with(OF_TESTS)
        && !knows(name)
        && !OTHERS.contains(&name)
        && !is_service_link(name, text)
}

/// Returns true for a variable that Kubernetes sets in every container beside a service whose
/// name begins like this program's.
fn is_service_link(name: &str, text: &str) -> bool {
    let is_address = ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|scheme| text.starts_with(scheme));
    let has_port_number = name
        .split_once("_PORT_")
        .is_some_and(|(_, rest)| rest.starts_with(|first: char| first.is_ascii_digit()));
    is_address
        || has_port_number
        || name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
}

fn warning(name: &str, place: Option<&str>) -> String {
    let settings = documented();
    let bare = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
    let known: Vec<(String, &str)> = settings
        .iter()
        .map(|setting| (bare(&setting.variable), setting.variable.as_str()))
        .collect();
    let near = nearest(&bare(name), known.iter().map(|(bare, _)| bare.as_str()));
    let meant = near
        .first()
        .and_then(|near| known.iter().find(|(bare, _)| bare == near));
    let way_out = match meant {
        Some((_, variable)) => format!("did you mean {variable}?"),
        None => "`termitary --help` lists the settings".to_owned(),
    };
    let place = place.map_or_else(String::new, |place| format!(" ({place})"));
    format!(
        "{}{place} is not a setting of this program: {way_out}",
        escape(name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_setting_is_named_with_or_without_the_prefix() {
        for (wrong, right) in [
            ("TERMITARY_CONCURENCY", "TERMITARY_CONCURRENCY?"),
            ("TERMITARY_DATABASE_URL", "DATABASE_URL?"),
            ("TERMITARY_PORT", "PORT?"),
            ("TERMITARY_X", "--help"),
        ] {
            assert!(is_unknown(wrong, "1"), "{wrong}");
            let text = warning(wrong, None);
            assert!(text.contains(right), "{text}");
        }
    }

    #[test]
    fn variables_of_others_are_not_settings() {
        for (name, text) in [
            ("TERMITARY_LEASE", "2s"),
            ("TERMITARY_FAILPOINT", "x"),
            ("TERMITARY_PORT", "tcp://10.0.0.1:80"),
            ("TERMITARY_API_SERVICE_HOST", "10.0.0.1"),
            ("TERMITARY_SERVICE_PORT_HTTP", "80"),
            ("TERMITARY_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("TERMITARY_PORT_80_TCP_PORT", "80"),
            ("REDIS_HOSST", "x"),
        ] {
            assert!(!is_unknown(name, text), "{name}");
        }
    }
}
