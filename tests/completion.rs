//! Completion of remote paths in real shells: those that are not installed are told and left out.

use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::cluster::{Cluster, Ran};

/// A user with some files, and the scripts of all shells.
fn user() -> Cluster {
    let user = Cluster::up(1);
    for name in ["photos/a.raw", "photos/b c.raw", "phone", "x/y", "odd/new\nline", "odd/plain"] {
        user.file(&format!("tree/{name}"), b"x");
    }
    user.ok(&["put", "tree", "bn:/", "--replicas", "1"]);
    user.ok(&["mv", "bn:/tree/photos", "bn:/photos"]);
    user.ok(&["mv", "bn:/tree/phone", "bn:/phone"]);
    for shell in ["bash", "zsh", "fish"] {
        user.file(shell, &user.ok(&["completion", shell]).stdout);
    }
    user
}

/// What a shell prints; nothing where there is no such shell.
fn shell(user: &Cluster, shell: &str, arguments: &[&str], text: &str) -> Option<Vec<String>> {
    let built = std::path::Path::new(env!("CARGO_BIN_EXE_bytenode")).parent().unwrap().to_str().unwrap();
    let mut command = Command::new(shell);
    user.environment(&mut command).args(arguments).args(["-c", text]);
    command.env("PATH", format!("{built}:/usr/local/bin:/usr/bin:/bin")).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    let Ok(output) = command.output() else {
        println!("{shell} is not installed: not tested");
        return None;
    };
    let ran = Ran::of(output);
    assert_eq!(ran.stderr, "", "{shell}: {}", ran.text());
    Some(ran.text().lines().map(str::to_owned).collect())
}

/// Lines typed so far, and what each may become: whole words, those with a slash go on.
const TYPED: [(&str, &[&str]); 6] = [
    ("bytenode ls bn:/ph", &["bn:/phone", "bn:/photos/"]),
    ("bytenode get -n bn:/photos/", &["bn:/photos/a.raw", "bn:/photos/b c.raw"]),
    ("bytenode get bn:/photos/b\\ c", &["bn:/photos/b c.raw"]),
    ("bytenode ls bn:", &["bn:/"]),
    ("bytenode ls bn:/tree/odd/", &["bn:/tree/odd/plain"]),
    ("bytenode ls bn:/nothing/x", &[]),
];

#[test]
fn bash_completes_remote_paths() {
    let user = user();
    for (line, expected) in TYPED {
        for (breaks, kept) in [(":=", ""), ("=", "bn:")] {
            let text = format!(
                "source ./bash; complete -p bytenode | grep -q _bytenode_remote || echo not registered
                 COMP_WORDBREAKS=$' \\n{breaks}' COMP_LINE={line:?} COMP_POINT=${{#COMP_LINE}}
                 _bytenode_remote bytenode x y; [[ ${{#COMPREPLY[@]}} = 0 ]] || printf '%s\\n' \"${{COMPREPLY[@]}}\"",
                line = line
            );
            let Some(told) = shell(&user, "bash", &["--norc"], &text) else { return };
            let quoted = |word: &&str| format!("{kept}{}", word.strip_prefix("bn:").unwrap().replace(' ', "\\ "));
            assert_eq!(told, expected.iter().map(quoted).collect::<Vec<_>>(), "{line} {breaks}");
        }
    }
    // The rest is completed as before.
    let text = "source ./bash; COMP_WORDS=(bytenode sta) COMP_CWORD=1 COMP_LINE='bytenode sta' COMP_POINT=12
                _bytenode_remote bytenode sta bytenode; printf '%s\\n' \"${COMPREPLY[@]}\"";
    if let Some(told) = shell(&user, "bash", &["--norc"], text) {
        assert_eq!(told, ["status", "stat"]);
    }
}

#[test]
fn zsh_completes_remote_paths() {
    let user = user();
    for (line, expected) in TYPED {
        let word = line.rsplit_once("bn:").unwrap().1;
        // Outside of a line that is edited: what is offered is printed.
        let text = format!(
            "compdef() {{ [[ $* = '_bytenode_remote bytenode' ]] || print -r -- \"$*\" }}
             compadd() {{ while [[ $1 != -- ]] shift; shift; (( $# )) && print -rl -- \"$@\" }}
             source ./zsh; words=(bytenode) PREFIX='bn:{word}'; _bytenode_remote; true"
        );
        let Some(mut told) = shell(&user, "zsh", &["-f"], &text) else { return };
        told.sort();
        assert_eq!(told, expected, "{line}");
    }
}

#[test]
fn fish_completes_remote_paths() {
    let user = user();
    for (line, expected) in TYPED {
        let text = format!("source ./fish; complete -C '{}'", line.replace('\\', "\\\\"));
        let Some(mut told) = shell(&user, "fish", &["--no-config"], &text) else { return };
        told.sort();
        assert_eq!(told, expected, "{line}");
    }
}

/// Whoever presses a key gets the prompt back, whatever the coordinator does.
#[test]
fn a_coordinator_that_hangs_or_is_gone_completes_nothing() {
    let user = user();
    let coordinator = user.member("coordinator");
    coordinator.signal(Signal::STOP);
    let began = std::time::Instant::now();
    let ran = user.ok(&["internal-complete", "bn:/"]);
    assert_eq!((ran.text().as_str(), ran.stderr.as_str()), ("", ""));
    // It waits a second; a call to the coordinator waits for thirty.
    assert!(began.elapsed().as_secs() < 15);
    coordinator.kill();
    let ran = user.ok(&["internal-complete", "bn:/"]);
    assert_eq!((ran.text().as_str(), ran.stderr.as_str()), ("", ""));
    let ran = Cluster::none().ok(&["internal-complete", "bn:/"]);
    assert_eq!((ran.text().as_str(), ran.stderr.as_str()), ("", ""));
}
