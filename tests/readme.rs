//! The README's own commands, run as a new user would: its blocks marked `console run`, in order, under one empty home.
//!
//! What they print must be what the README shows. Where nodes, time and chance decide, only the form is compared:
//! see [`plain`]. Notes are not compared at all, since which node is asked first is chance.

use std::path::Path;
use std::process::{Command, Stdio};

const README: &str = include_str!("../README.md");

/// A command, and what the README says it prints.
#[derive(Debug, Default)]
struct Step {
    command: String,
    shown: Vec<String>,
}

/// The commands of every block to be run.
fn steps() -> Vec<Step> {
    let mut steps = Vec::<Step>::new();
    for block in README.split("\n```console run\n").skip(1) {
        let block = block.split_once("\n```").expect("every block ends").0;
        // The demo's own transcript has lines that look like commands: only the first of its block is one.
        let demo = block.starts_with("$ bytenode demo\n");
        for (number, line) in block.lines().enumerate() {
            match line.strip_prefix("$ ").filter(|_| !demo || number == 0) {
                Some(command) => steps.push(Step { command: command.to_owned(), shown: Vec::new() }),
                None => steps.last_mut().expect("a block begins with a command").shown.push(line.to_owned()),
            }
        }
    }
    steps
}

/// A home of its own, in which the pool is stopped at the end, however the test ends.
struct Home(tempfile::TempDir);

impl Home {
    fn command(&self, program: &str) -> Command {
        let built = Path::new(env!("CARGO_BIN_EXE_bytenode")).parent().unwrap();
        let path = std::env::join_paths([built, Path::new("/usr/bin"), Path::new("/bin")]).unwrap();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", self.0.path())
            .env("PATH", path)
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        command
    }

    /// Everything that a shell command prints, in the order in which it does.
    fn run(&self, command: &str) -> Vec<String> {
        let output = self.command("sh").args(["-c", &format!("{{ {command}\n}} 2>&1")]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.replace(self.0.path().to_str().unwrap(), "~").lines().map(str::to_owned).collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // A test that failed must leave nothing behind either.
        let _ = self.command("bytenode").args(["down", "--delete-data", "--yes"]).output();
    }
}

/// What must be equal of some lines.
fn plain(lines: &[String]) -> Vec<String> {
    let mut plain: Vec<String> = Vec::new();
    for line in lines.iter().filter(|line| !line.starts_with("note: ")) {
        let line = plain_line(line);
        // How many nodes a repair writes to, and how bars are wrapped, is chance.
        if plain.last() != Some(&line) {
            plain.push(line);
        }
    }
    plain
}

/// One line: numbers that depend on placement, disk or time are `#`, the rest of the line stays.
fn plain_line(line: &str) -> String {
    const CHANCE: [&str; 12] = [
        "asked about",
        "copied",
        "rewrote",
        "would rewrite",
        "repaired",
        "missing",
        "wrong bytes",
        "too few copies",
        " GiB",
        "builtin",
        "█",
        "KIND",
    ];
    if line.contains('█') {
        return "bars".into();
    }
    // Whether a chunk is on both nodes that are damaged is chance.
    if ["degraded: ", "at risk: "].iter().any(|verdict| line.starts_with(verdict)) {
        return "some copies are missing".into();
    }
    let chance = CHANCE.iter().any(|mark| line.contains(mark));
    let words: Vec<&str> = line.split_whitespace().collect();
    let timed = |index: usize| {
        let next = words.get(index + 1).map(|next| next.trim_end_matches(['.', ',', ':']));
        matches!(next, Some("s" | "second" | "seconds" | "ago"))
            || next.is_some_and(|next| next.ends_with("iB/s"))
            || words.get(index + 1..index + 3).is_some_and(|next| next[1].starts_with("ago"))
    };
    let words = words.iter().enumerate().map(|(index, word)| match word.trim_end_matches([':', ',', '.']) {
        hash if hash.len() == 64 && hash.chars().all(|c| c.is_ascii_hexdigit()) => "HASH".into(),
        rate if rate.ends_with("iB/s") => "RATE".into(),
        url if url.starts_with("http://127.0.0.1:") => "URL".into(),
        temporary if temporary.contains("bytenode-demo-") => "TEMPORARY".into(),
        program if program.ends_with("/debug/bytenode") || program.ends_with("/bin/bytenode") => "PROGRAM".into(),
        date if date.len() == 10 && date.matches('-').count() == 2 => "DATE".into(),
        time if time.len() == 5 && time.as_bytes()[2] == b':' => "TIME".into(),
        number if number.starts_with(|c: char| c.is_ascii_digit()) && (chance || timed(index)) => "#".into(),
        // The last chunk of a file is small, and may be all that a node gets.
        _ if chance => numberless(word).replace("chunks", "chunk").replace("KiB", "MiB"),
        _ => (*word).to_owned(),
    });
    words
        .collect::<Vec<String>>()
        .join(" ")
        .replace("just now", "# seconds ago")
        .replace("# second ago", "# seconds ago")
}

/// A word with `#` for every number in it.
fn numberless(word: &str) -> String {
    let mut out = String::new();
    for c in word.chars() {
        match c {
            '0'..='9' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            other => out.push(other),
        }
    }
    out
}

#[test]
fn the_commands_of_the_readme_do_what_it_says() {
    let steps = steps();
    assert!(steps.len() >= 10, "{steps:#?}");
    let home = Home(tempfile::tempdir().unwrap());
    for step in steps {
        let told = home.run(&step.command);
        assert_eq!(plain(&told), plain(&step.shown), "$ {}\n{}", step.command, told.join("\n"));
    }
}

#[test]
fn what_is_not_chance_is_compared() {
    let plain = |line: &str| plain_line(line);
    assert_eq!(plain("  copied 1 chunk to n3 (110.4 KiB)"), plain("  copied 23 chunks to n4 (23.0 MiB)"));
    assert_eq!(plain("sealed, 3 of 3 copies, checked 12 seconds ago"), "sealed, 3 of 3 copies, checked # seconds ago");
    assert_eq!(plain("sealed, 3 of 3 copies, checked just now"), "sealed, 3 of 3 copies, checked # seconds ago");
    assert_eq!(plain("x: 64.0 MiB in 1.1 s, 56.7 MiB/s"), "x: 64.0 MiB in # s, # RATE");
    assert_eq!(plain("  copied 1 chunk to n2 (1.0 MiB)"), plain("  copied 12 chunks to n5 (12.0 MiB)"));
    assert_ne!(plain("Stored 1 file as 20 chunks"), plain("Stored 1 file as 21 chunks"));
    assert_eq!(plain("It took 7.9 s. Next: up"), "It took # s. Next: up");
}

/// Every sentence of what is guaranteed names tests, and each of them exists.
#[test]
fn what_is_guaranteed_is_tested() {
    let section = README.split("## What is guaranteed").nth(1).and_then(|rest| rest.split("What it does not").next());
    let promises: Vec<&str> = section.unwrap().split("\n- **").skip(1).collect();
    assert!(promises.len() >= 10, "{}", promises.len());
    for promise in promises {
        let (_, cited) = promise.split_once(" *`").or_else(|| promise.split_once("\n  *`")).unwrap_or_default();
        let cited = cited.split("*\n").next().unwrap_or_default();
        let mut count = 0;
        for part in cited.split('`').collect::<Vec<_>>().chunks(2) {
            let [file, names] = part else { panic!("no tests of {part:?}") };
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
            let source = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
            for name in names.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|name| !name.is_empty()) {
                if name == "and" {
                    continue;
                }
                assert!(source.contains(&format!("fn {name}(")), "{file} has no test {name}");
                count += 1;
            }
        }
        assert!(count > 0, "nothing proves: {promise}");
    }
}
