//! Manual pages: one for every command, and such that the programs that show them have nothing to say against them.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::support::cluster::Cluster;

/// The commands that help shows, as `bytenode-admin-node-add`.
fn commands(user: &Cluster, words: &[&str], all: &mut BTreeSet<String>) {
    let text = user.ok(&[words, &["--help"]].concat()).text();
    all.insert([&["bytenode"], words].concat().join("-"));
    let names = text.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    for name in names.filter_map(|line| line.split_whitespace().next()) {
        commands(user, &[words, &[name]].concat(), all);
    }
}

#[test]
fn every_command_has_a_page_that_is_right() {
    let user = Cluster::none();
    let told = user.ok(&["man", "--dir", "share/man1"]).stderr;
    let mut all = BTreeSet::new();
    commands(&user, &[], &mut all);
    let pages = fs::read_dir(user.work().join("share/man1")).unwrap().map(|page| page.unwrap().path());
    let pages: Vec<_> = pages.collect();
    let named = |page: &std::path::PathBuf| page.file_stem().unwrap().to_str().unwrap().to_owned();
    assert_eq!(pages.iter().map(named).collect::<BTreeSet<_>>(), all);
    assert!(told.contains(&format!("Wrote {} pages to share/man1", all.len())), "{told}");
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        let title = format!("\n.TH \"{}\" 1 \"\" \"ByteNode ", named(page).to_uppercase());
        assert!(format!("\n{text}").contains(&title), "{page:?}: {title}");
        let name = text.split("\n.SH NAME\n").nth(1).unwrap().lines().next().unwrap();
        let (what, does) = name.split_once(" \\- ").unwrap_or_else(|| panic!("{page:?}: {name:?}"));
        assert_eq!(what.replace('\\', ""), named(page));
        assert!(!does.is_empty() && !text.contains("internal"), "{page:?}");
        let group = text.contains("\n.SH SUBCOMMANDS\n");
        assert!(group || (text.contains("\n.SH EXAMPLES\n") && text.contains("\n.SH EXIT STATUS\n")), "{page:?}");
    }
    assert_eq!(user.ok(&["man"]).stdout, fs::read(user.work().join("share/man1/bytenode.1")).unwrap());
    assert_eq!(user.exits(2, &["--json", "man"]).lines()[0]["type"], "error");
    shown(&pages);
}

/// Has them read by the programs that are there: mandoc by its own rules, and man by groff's warnings.
fn shown(pages: &[std::path::PathBuf]) {
    match Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).args(pages).output() {
        // A page without a date is what it is; and a line that breaks twice breaks once.
        Ok(output) => {
            let text = String::from_utf8(output.stdout).unwrap();
            let taste = ["missing date", "skipping paragraph macro"];
            let wrong: Vec<_> = text.lines().filter(|line| !taste.iter().any(|taste| line.contains(taste))).collect();
            assert!(wrong.is_empty(), "{wrong:#?}");
        }
        Err(_) => println!("mandoc is not installed: not tested"),
    }
    for page in pages {
        let man = Command::new("man").args(["--warnings", "-l"]).arg(page).env("MANPAGER", "cat").output();
        let Ok(output) = man.as_ref().inspect_err(|_| println!("man is not installed: not tested")) else { return };
        let told = String::from_utf8_lossy(&output.stderr);
        // Another man than that of Linux knows no such option.
        if output.status.success() {
            assert_eq!(told, "", "{page:?}");
            assert!(String::from_utf8_lossy(&output.stdout).contains("SYNOPSIS"));
        }
    }
}
