//! Imports point down, and SQL stands in the ledger: the tables of [`tables`] say
//! which layer a module belongs to, and the tests here read every source file.

mod source;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use source::Source;

/// The modules of one crate.
struct Tree {
    /// The folder of its sources.
    sources: &'static str,
    /// The lowest first. A module is listed by its path; the longest match counts.
    layers: &'static [Layer],
    /// Imports that are forbidden within a layer: importer and imported.
    apart: &'static [(&'static str, &'static str)],
    /// Imports against the rules: importer and imported.
    exceptions: &'static [(&'static str, &'static str)],
    sql: Sql,
}

struct Layer {
    modules: &'static [&'static str],
    sideways: Sideways,
}

/// The imports that a module may make from others of its layer.
enum Sideways {
    All,
    /// The submodules of these names.
    Only(&'static [&'static str]),
}

/// The places where SQL is allowed.
struct Sql {
    /// The files, by the end or the beginning of their module's path.
    files: &'static [&'static str],
    /// The owner of tables with this name or prefix.
    tables: &'static [(&'static str, &'static str)],
    /// Allowed exceptions: SQL elsewhere, or of another module's table, as the module of the file
    /// and the table.
    exceptions: &'static [(&'static str, &'static str)],
}

/// A file of the tree outside of its tests.
struct File {
    module: Vec<String>,
    source: Source,
}

impl Tree {
    /// All violations, and the exceptions that are not needed.
    fn wrong(&self, repository: &Path) -> Vec<String> {
        let files = files(&repository.join(self.sources));
        let roots = exported(&files);
        let mut used = BTreeSet::new();
        let mut wrong = BTreeSet::new();
        for file in files.iter().filter(|file| !file.module.is_empty()) {
            let from = file.module.join("::");
            for mut path in file.source.paths(&file.module) {
                let Some(first) = path.first() else { continue };
                if let Some(module) = roots.get(first) {
                    path.splice(..0, module.iter().cloned());
                }
                let to = path.join("::");
                let Some(why) = self.forbidden(&from, &to) else {
                    continue;
                };
                let exception = self
                    .exceptions
                    .iter()
                    .find(|(importer, imported)| is_in(&from, importer) && is_in(&to, imported));
                match exception {
                    Some(exception) => drop(used.insert(exception)),
                    None => drop(wrong.insert(format!("{from} imports {to}: {why}"))),
                }
            }
        }
        let unused = self.exceptions.iter().filter(|it| !used.contains(it));
        wrong
            .extend(unused.map(|(from, to)| format!("{from} imports no {to}: drop the exception")));
        wrong.into_iter().collect()
    }

    /// The reason why `from` may not import `to`.
    fn forbidden(&self, from: &str, to: &str) -> Option<String> {
        let Some((rank, importer)) = self.place(from) else {
            return Some(format!("`{from}` stands in no layer"));
        };
        let Some((level, target)) = self.place(to) else {
            return Some(format!("`{to}` stands in no layer"));
        };
        if importer == target {
            return None;
        }
        let apart = self
            .apart
            .iter()
            .find(|(a, b)| is_in(from, a) && is_in(to, b));
        if let Some((a, b)) = apart {
            return Some(format!("`{a}` knows no `{b}`"));
        }
        if level > rank {
            return Some(format!("`{target}` is a layer above `{importer}`"));
        }
        match &self.layers[rank].sideways {
            Sideways::Only(doors) if level == rank => {
                let inside = to[target.len()..].trim_start_matches("::");
                let open = doors.iter().any(|door| is_in(inside, door));
                (!open).then(|| format!("of `{target}` it may import {}", doors.join(", ")))
            }
            _ => None,
        }
    }

    /// The layer of a module, and its name in the table.
    fn place(&self, module: &str) -> Option<(usize, &'static str)> {
        let named = self.layers.iter().enumerate().flat_map(|(rank, layer)| {
            let modules = layer.modules.iter();
            modules.map(move |name| (rank, *name))
        });
        named
            .filter(|(_, name)| is_in(module, name))
            .max_by_key(|(_, name)| name.len())
    }

    /// SQL in places where it is not allowed.
    fn wrong_sql(&self, repository: &Path) -> Vec<String> {
        let Sql {
            files: places,
            tables,
            exceptions,
        } = &self.sql;
        let mut used = BTreeSet::new();
        let mut wrong = BTreeSet::new();
        for file in files(&repository.join(self.sources)) {
            let module = file.module.join("::");
            let stands = places.iter().any(|place| {
                is_in(&module, place) || file.module.last().is_some_and(|last| last == place)
            });
            for table in file.source.texts.iter().flat_map(|text| named_tables(text)) {
                let owner = tables
                    .iter()
                    .filter(|(_, prefix)| table.starts_with(prefix))
                    .max_by_key(|(_, prefix)| prefix.len());
                let Some((owner, _)) = owner else { continue };
                if stands && is_in(&module, owner) {
                    continue;
                }
                let exception = exceptions.iter().find(|it| **it == (&module, &table));
                match exception {
                    Some(exception) => drop(used.insert(exception)),
                    None => drop(wrong.insert(format!(
                        "SQL in {module}: the table {table} is of `{owner}`, and SQL stands in {}",
                        places.join(", ")
                    ))),
                }
            }
        }
        let unused = exceptions.iter().filter(|it| !used.contains(it));
        wrong.extend(unused.map(|(file, table)| {
            format!("no SQL with {table} stands in {file}: drop the exception")
        }));
        wrong.into_iter().collect()
    }
}

/// Returns whether `path` is `module` or inside it.
fn is_in(path: &str, module: &str) -> bool {
    path.strip_prefix(module)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The tables that a text names, if it is SQL.
fn named_tables(text: &str) -> Vec<String> {
    let words: Vec<_> = text
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .collect();
    words
        .windows(2)
        .filter(|pair| ["FROM", "INTO", "UPDATE", "JOIN"].contains(&pair[0]))
        .map(|pair| pair[1].to_owned())
        .collect()
}

/// The files below `root` that are built into the program, `lib.rs` and `main.rs` as the
/// root of the crate.
fn files(root: &Path) -> Vec<File> {
    let mut files = Vec::new();
    let mut tests = Vec::new();
    read(root, &[], &mut files, &mut tests);
    files.retain(|file: &File| !tests.iter().any(|test| file.module.starts_with(test)));
    files
}

fn read(folder: &Path, module: &[String], files: &mut Vec<File>, tests: &mut Vec<Vec<String>>) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let mut module = module.to_vec();
        if !["lib", "main", "mod"].contains(&&*name) {
            module.push(name.into_owned());
        }
        if path.is_dir() {
            read(&path, &module, files, tests);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let source = Source::read(&text);
            tests.extend(source.test_modules.iter().map(|name| {
                let mut path = module.clone();
                path.push(name.clone());
                path
            }));
            files.push(File { module, source });
        }
    }
}

/// The items that the root of the crate re-exports, with their modules.
fn exported(files: &[File]) -> BTreeMap<String, Vec<String>> {
    let root = files.iter().filter(|file| file.module.is_empty());
    root.flat_map(|file| file.source.exports())
        .filter_map(|path| Some((path.last()?.clone(), path.split_last()?.1.to_vec())))
        .filter(|(_, module)| !module.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::tables::{APPLICATION, LIBRARY};
    use super::*;

    fn repository() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn imports_of_the_library_point_down() {
        let wrong = LIBRARY.wrong(&repository());
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn imports_of_the_application_point_down() {
        let wrong = APPLICATION.wrong(&repository());
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn sql_of_the_library_stands_in_the_ledger() {
        let wrong = LIBRARY.wrong_sql(&repository());
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn sql_of_the_application_stands_in_the_store_of_the_tables_module() {
        let wrong = APPLICATION.wrong_sql(&repository());
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// The pipeline inspects every command in debug builds.
    #[test]
    fn commands_for_redis_are_sent_in_one_place() {
        let files = files(&repository().join(LIBRARY.sources));
        let sends = [
            "send_packed_command",
            "send_packed_commands",
            "query_async",
            "exec_async",
        ];
        let senders: Vec<_> = files
            .iter()
            .filter(|file| sends.iter().any(|send| file.source.names(send)))
            .map(|file| file.module.join("::"))
            .collect();
        assert_eq!(senders, ["broker::redis::wire::pipeline"]);
    }

    #[test]
    fn an_import_that_points_up_is_found() {
        let forbidden = |from, to| LIBRARY.forbidden(from, to).is_some();
        assert!(forbidden("ledger::settle", "broker::CRASH_LIMIT"));
        assert!(forbidden("broker::sql", "handler::Meta"));
        assert!(forbidden("ledger", "nowhere"));
        assert!(!forbidden("broker::sql", "ledger::settle"));
        assert!(!forbidden("ledger::settle", "ledger::sql"));
        let forbidden = |from, to| APPLICATION.forbidden(from, to).is_some();
        assert!(forbidden("users::store", "todos::store::Row"));
        assert!(!forbidden("users::handlers", "todos::events::TodoCreated"));
    }

    #[test]
    fn the_tables_of_a_statement_are_found() {
        let sql = "INSERT INTO a SELECT x FROM b JOIN c ON TRUE";
        assert_eq!(named_tables(sql), ["a", "b", "c"]);
        assert!(named_tables("no statement from anywhere").is_empty());
    }
}
