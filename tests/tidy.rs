//! The house rules that a machine can check, over every file that is part of the repository.

use std::fs;
use std::path::{Path, PathBuf};

/// The longest a file may be.
const MAX_LINES: usize = 600;

/// Files below a directory of the repository, without what is built or generated.
fn files(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        if name == "target" || name == ".git" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            files(&entry.path(), all);
        } else {
            all.push(entry.path());
        }
    }
}

/// (path from the root, text) of all text files.
fn texts() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    files(root, &mut all);
    let named = |path: PathBuf| {
        let text = fs::read_to_string(&path).ok()?;
        Some((path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), text))
    };
    let texts: Vec<_> = all.into_iter().filter_map(named).collect();
    assert!(texts.iter().any(|(name, _)| name == "src/lib.rs"));
    texts
}

fn sources() -> Vec<(String, String)> {
    texts().into_iter().filter(|(name, _)| name.ends_with(".rs")).collect()
}

/// The code of a file: without comments, without string literals' worth of prose, and without its unit tests.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap();
    code.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Fails with every line that breaks a rule.
fn none(broken: Vec<String>) {
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

fn with_words<'a>(sources: impl Iterator<Item = &'a (String, String)>, words: &[&str]) -> Vec<String> {
    let mut broken = Vec::new();
    for (name, text) in sources {
        let code = code(text);
        broken.extend(words.iter().filter(|word| code.contains(**word)).map(|word| format!("{name}: {word}")));
    }
    broken
}

/// Of `src/`, what ships: not test modules in files of their own.
fn is_shipped(name: &str) -> bool {
    name.starts_with("src/") && !name.contains("test")
}

#[test]
fn every_file_says_what_it_is_for() {
    let opens = |text: &str| text.starts_with("//! ");
    none(sources().iter().filter(|(_, text)| !opens(text)).map(|(name, _)| name.clone()).collect());
}

#[test]
fn no_file_is_too_long() {
    let told = |(name, text): &(String, String)| format!("{name}: {} lines", text.lines().count());
    none(sources().iter().filter(|(_, text)| text.lines().count() > MAX_LINES).map(told).collect());
}

#[test]
fn the_library_prints_reads_and_ends_nothing() {
    let words =
        ["println!", "eprintln!", "print!(", "eprint!(", "dbg!", "std::env", "env::var", "clap", "axum", "indicatif"];
    let sources = sources();
    let shipped = || sources.iter().filter(|(name, _)| is_shipped(name));
    let mut broken = with_words(shipped(), &words);
    broken.extend(with_words(shipped(), &["process::exit", "anyhow"]));
    none(broken);
}

#[test]
fn pure_modules_are_pure() {
    let pure = ["place/", "chunk", "seal", "unixfs", "car", "pack", "path"];
    let words = ["async ", ".await", "tokio", "std::fs", "fs::", "Instant", "SystemTime", "Timestamp::now", "rand::"];
    let is_pure = |name: &str| {
        let name = name.strip_prefix("src/").unwrap_or("");
        pure.iter().any(|module| name == format!("{module}.rs") || (module.ends_with('/') && name.starts_with(module)))
    };
    let sources = sources();
    let checked: Vec<_> = sources.iter().filter(|(name, _)| is_pure(name) && is_shipped(name)).collect();
    assert!(checked.len() >= pure.len(), "{}", checked.len());
    none(with_words(checked.into_iter(), &words));
}

/// What a power loss may leave of a get is tested by what is written down of its changes, so none may go another way.
#[test]
fn a_get_changes_files_in_one_place() {
    let words = [
        "fs::write",
        "fs::rename",
        "fs::remove",
        "fs::hard_link",
        "fs::copy",
        "fs::create_dir",
        "fs::set_permissions",
        ".create(",
        "File::create",
        "create_new(",
        "create(true",
        "truncate(true",
        ".set_len(",
        ".set_modified(",
        ".set_times(",
        ".set_permissions(",
        ".sync_all(",
        ".sync_data(",
        "write_at(",
        "::Write;",
        "{Write",
        " Write,",
        " Write}",
        "tempfile",
        "tokio::fs",
    ];
    let of_get = |name: &str| {
        ["src/get.rs", "src/file_writer.rs"].contains(&name)
            || name.starts_with("src/get/")
            || name.starts_with("cli/commands/get/")
    };
    let sources = sources();
    let checked: Vec<_> = sources.iter().filter(|(name, _)| of_get(name)).collect();
    assert!(checked.len() > 8, "{}", checked.len());
    none(with_words(checked.into_iter(), &words));
}

#[test]
fn nothing_is_left_for_later() {
    let words =
        [["to", "do!("], ["unimpl", "emented!("], ["#[ig", "nore"], ["TO", "DO"], ["FIX", "ME"]].map(|w| w.concat());
    let found = |(name, text): &(String, String)| {
        let words = words.iter().filter(|word| text.contains(word.as_str()));
        words.map(|word| format!("{name}: {word}")).collect::<Vec<_>>()
    };
    none(sources().iter().flat_map(found).collect());
}

/// A test that sleeps is slow where the machine is fast, and fails where it is slow.
#[test]
fn tests_wait_for_conditions() {
    let words = [["thread::", "sleep"].concat(), ["time::", "sleep("].concat()];
    let tests = |name: &str| name.starts_with("tests/") || (name.starts_with("src/") && name.contains("test"));
    let sources = sources();
    let found = |(name, text): &(String, String)| {
        let words = words.iter().filter(|word| text.contains(word.as_str()));
        words.map(|word| format!("{name}: {word}")).collect::<Vec<_>>()
    };
    none(sources.iter().filter(|(name, _)| tests(name)).flat_map(found).collect());
}

/// What names a directory of the machine on which it was written works nowhere else.
#[test]
fn no_path_of_a_machine_is_written_down() {
    let words = [["/ho", "me/"], ["/Us", "ers/"], ["/wo", "rk/"], ["/ro", "ot/"]].map(|word| word.concat());
    let found = |(name, text): &(String, String)| {
        let at = |word: &String| {
            let before = |index: usize| text[..index].chars().next_back();
            let absolute = |index: &usize| !before(*index).is_some_and(|c| c.is_alphanumeric() || "./~}_-".contains(c));
            text.match_indices(word.as_str()).map(|(index, _)| index).find(absolute)
        };
        words.iter().filter_map(|word| at(word).map(|_| format!("{name}: {word}"))).collect::<Vec<_>>()
    };
    none(texts().iter().flat_map(found).collect());
}
