//! `.env` in the working folder: the settings that neither a flag nor the environment
//! sets. The environment of the process stays unchanged.

use std::io::ErrorKind;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::envfile::EnvFile;
use super::{Mistake, in_environment};

const FILE: &str = ".env";

/// The content of `.env`, and its errors.
#[derive(Default)]
pub(crate) struct Dotenv {
    file: EnvFile,
    unreadable: Option<String>,
}

impl Dotenv {
    /// Reads `.env`, if it exists. A folder of that name is ignored.
    pub(crate) fn load() -> Self {
        match std::fs::read(FILE) {
            Ok(bytes) => Self {
                file: EnvFile::read(&bytes),
                unreadable: None,
            },
            Err(error) if is_absent(error.kind()) => Self::default(),
            Err(error) => Self {
                file: EnvFile::default(),
                unreadable: Some(format!("cannot read {FILE}: {error}")),
            },
        }
    }

    /// Makes the values of the file the defaults of the settings.
    pub(crate) fn fill(&self, mut command: clap::Command) -> clap::Command {
        let found: Vec<_> = command
            .get_arguments()
            .filter_map(|arg| {
                let variable = self.file.variables.get(arg.get_env()?.to_str()?)?;
                Some((arg.get_id().clone(), variable.value.clone()))
            })
            .collect();
        for (id, value) in found {
            command = command.mut_arg(id, |arg| arg.default_value(value).hide_default_value(true));
        }
        command
    }

    /// The text of a variable in the file.
    pub(crate) fn get(&self, variable: &str) -> Option<String> {
        let set = self.file.variables.get(variable)?;
        Some(set.value.clone())
    }

    /// The variables in the file that have a text, each with its place.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&str, &str, String)> {
        let set = self.file.variables.iter();
        set.map(|(name, set)| {
            let place = format!("{FILE}, line {}", set.line);
            (&**name, &*set.value, place)
        })
    }

    /// Fails if the file exists but cannot be read: its settings would be missing.
    pub(crate) fn readable(&self) -> Result<(), Mistake> {
        self.unreadable.clone().map_or(Ok(()), |text| {
            Err(Mistake::new(format!(
                "{text}: let this user read it, or start in another folder"
            )))
        })
    }

    /// The ignored lines, without their content.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> {
        let skipped = self.file.skipped.iter();
        skipped.map(|skipped| format!("{FILE}, line {}: ignored, {}", skipped.line, skipped.why))
    }

    /// Adds the number of the line to a mistake that starts with the name of a setting from
    /// the file.
    pub(crate) fn blame(
        &self,
        mistake: Mistake,
        command: &clap::Command,
        matches: &ArgMatches,
    ) -> Mistake {
        let text = mistake.to_string();
        let name = text.split([' ', ':']).next().unwrap_or_default();
        let arg = command
            .get_arguments()
            .find(|arg| arg.get_env().is_some_and(|env| env == name));
        let from_file = arg.is_some_and(|arg| {
            let id = arg.get_id().as_str();
            let empty = |text: &String| text.trim().is_empty();
            match matches.value_source(id) {
                Some(ValueSource::DefaultValue) => true,
                // The setting is left to the next source.
                Some(_) => matches.get_one(id).is_some_and(empty) && in_environment(name).is_none(),
                None => false,
            }
        });
        match self.file.variables.get(name) {
            Some(variable) if from_file => {
                Mistake::new(format!("{text} ({FILE}, line {})", variable.line))
            }
            _ => mistake,
        }
    }
}

fn is_absent(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound | ErrorKind::IsADirectory | ErrorKind::NotADirectory
    )
}
