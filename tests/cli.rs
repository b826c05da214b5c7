//! The command line where no coordinator is needed: help, usage errors, refusals, and what is printed where.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Runs `bytenode` with nothing of the real environment.
fn bytenode(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bytenode"));
    command.args(arguments).env_clear().env("HOME", home).current_dir(home).stdin(Stdio::null());
    command
}

/// What it prints, on both streams, and how it ends; the home directory written as `~`.
fn told(home: &Path, arguments: &[&str]) -> String {
    shown(home, &bytenode(home, arguments).output().unwrap())
}

fn shown(home: &Path, output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let code = output.status.code().unwrap();
    format!("{out}{err}exit {code}").replace(home.to_str().unwrap(), "~")
}

fn home() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The words of a command, and those of every command below it.
fn commands(home: &Path, words: &[&str], all: &mut Vec<Vec<String>>) {
    let help = bytenode(home, &[words, &["--help"]].concat()).output().unwrap();
    let text = String::from_utf8(help.stdout).unwrap();
    all.push(words.iter().map(ToString::to_string).collect());
    let names = text.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    for name in names.filter_map(|line| line.split_whitespace().next()) {
        commands(home, &[words, &[name]].concat(), all);
    }
}

#[test]
fn every_help_shows_examples_and_exit_codes() {
    let home = home();
    let mut all = Vec::new();
    commands(home.path(), &[], &mut all);
    assert!(all.len() > 25, "{all:?}");
    for words in all {
        let mut arguments: Vec<&str> = words.iter().map(String::as_str).collect();
        arguments.push("--help");
        let text = told(home.path(), &arguments);
        assert!(text.ends_with("exit 0"), "{words:?}");
        let group = words.is_empty() || text.contains("\nCommands:");
        assert!(group || text.contains("\nExamples:\n  "), "{words:?} has no examples");
        assert!(group || text.contains("\nExit codes:\n  0    done\n"), "{words:?} has no exit codes");
        assert!(!text.contains("internal"), "{words:?} shows what is hidden");
        // One help, whichever way it is asked for.
        let topic: Vec<&str> = std::iter::once("help").chain(words.iter().map(String::as_str)).collect();
        let options = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
        assert_eq!(options(&told(home.path(), &topic)), options(&text), "{words:?}");
    }
}

#[test]
fn help_of_put() {
    let home = home();
    insta::assert_snapshot!(told(home.path(), &["put", "--help"]), @r#"
    Store files and directories

    Usage: bytenode put [OPTIONS] SRC... [bn:/DEST]
           bytenode put [OPTIONS] --from-command bn:/FILE -- PROGRAM...

    Examples:
      bytenode put photos bn:/              a directory, as bn:/photos
      bytenode put photos bn:/pictures      its contents become those of bn:/pictures
      bytenode put a.raw b.raw bn:/photos/  several files, into a directory
      tar c work | bytenode put - bn:/work.tar
      bytenode put --from-command bn:/db.sql -- pg_dump mydb
                                            what a program prints, unless the program fails

    Arguments:
      [SRC... [bn:/DEST]]...  Local files and directories, or - for standard input; last where they go
                              (default: into bn:/)

    Options:
          --from-command      Store what a program prints: bn:/FILE -- PROGRAM ARGUMENTS...; if it
                              fails, nothing is stored
          --replicas <N>      Copies of every chunk, on as many nodes
          --public            Store plain blocks that any IPFS node can serve, instead of sealed ones
          --overwrite <WHEN>  What to do with a file that is there with other content [default: never]
                              [possible values: never, always, if-changed]
      -n, --dry-run           Change nothing; say what would be done
      -h, --help              Print help

    Global options:
          --json            Print JSON lines on standard output; the last is "summary" or "error"
      -q, --quiet           Print errors only
      -v, --verbose         Print more; without a terminal, progress each 10 s
          --color <WHEN>    When to use colours [default: auto] [possible values: auto, always, never]
          --no-input        Never ask anything
          --yes             Consent to what would be asked
          --profile <NAME>  Use another pool's settings [env: BYTENODE_PROFILE]
          --config <FILE>   Read this user file instead

    Exit codes:
      0    done
      1    other failure
      2    wrong usage
      3    partly done
      4    not signed in or not allowed
      5    not found
      6    already exists, or changed meanwhile
      7    temporary, try again (the coordinator or enough nodes do not answer)
      8    bytes are not what they must be
      9    too few nodes registered, or too little room
      10   stored, but below the target number of copies
      130  interrupted (Ctrl-C)
    exit 0
    "#);
}

#[test]
#[expect(clippy::too_many_lines, reason = "it is a table")]
fn usage_errors_say_what_was_meant() {
    let home = home();
    let errors: Vec<String> = [
        "pu",
        "stutus",
        "put",
        "put a --overwrite alway",
        "ls --frob",
        "ls bn:x",
        "ls bn:/a/../b",
        "ls x",
        "put bn:/x",
        "put a bn:/x bn:/y",
        "put - bn:/x/",
        "put -",
        "get bn:/",
        "get bn:/a bn:/b -",
        "rm bn:/",
        "rm -r bn:/",
        "mv bn:/ bn:/x",
        "demo --nodes 2",
        "help exit-code",
        "completion bash --json",
        "cat bn:/x --json",
        "-q -v ls",
        "--profile ../x ls",
        "login http://pool.example:7420",
        "admin node add --capacity 5X",
    ]
    .iter()
    .map(|line| {
        let arguments: Vec<&str> = line.split(' ').collect();
        format!("$ bytenode {line}\n{}", told(home.path(), &arguments))
    })
    .collect();
    insta::assert_snapshot!(errors.join("\n"), @r#"
    $ bytenode pu
    error: unrecognized subcommand 'pu'
    hint: did you mean put?
    exit 2
    $ bytenode stutus
    error: unrecognized subcommand 'stutus'
    hint: did you mean status?
    exit 2
    $ bytenode put
    error: the following required arguments were not provided: <SRC... [bn:/DEST]>...
    hint: bytenode put --help
    exit 2
    $ bytenode put a --overwrite alway
    error: invalid value 'alway' for '--overwrite <WHEN>' [possible values: never, always, if-changed]
    hint: did you mean always?
    exit 2
    $ bytenode ls --frob
    error: unexpected argument '--frob' found
    hint: bytenode ls --help
    exit 2
    $ bytenode ls bn:x
    error: "bn:x" is not a remote path
    hint: did you mean bn:/x?
    exit 2
    $ bytenode ls bn:/a/../b
    error: "bn:/a/../b" has a . or .. in it
    hint: did you mean bn:/b?
    exit 2
    $ bytenode ls x
    error: "x" is not a remote path: remote paths begin with bn:/
    hint: did you mean bn:/x?
    exit 2
    $ bytenode put bn:/x
    error: nothing to put: name a local file or directory
    hint: bytenode put FILE bn:/
    exit 2
    $ bytenode put a bn:/x bn:/y
    error: bn:/x is a remote path, and only the last operand of put may be one
    hint: a local file of that name is written ./bn:/x; within the pool use: bytenode cp
    exit 2
    $ bytenode put - bn:/x/
    error: a stream has no name of its own: say what it becomes, as in bn:/FILE
    exit 2
    $ bytenode put -
    error: a stream has no name of its own: say what it becomes, as in bn:/FILE
    exit 2
    $ bytenode get bn:/
    error: bn:/ has no name of its own: say where it goes
    hint: bytenode get bn:/ DIR
    exit 2
    $ bytenode get bn:/a bn:/b -
    error: standard output takes one file
    hint: bytenode cat bn:/A bn:/B, or as an archive: bytenode get --tar bn:/A bn:/B -
    exit 2
    $ bytenode rm bn:/
    error: bn:/ is a directory
    hint: bytenode rm -r bn:/ removes everything
    exit 2
    $ bytenode rm -r bn:/
    error: this will remove every file you have in this pool, and there is nobody to ask
    hint: add --yes if it is meant
    exit 2
    $ bytenode mv bn:/ bn:/x
    error: bn:/ cannot be moved or copied: it is where everything is
    exit 2
    $ bytenode demo --nodes 2
    error: invalid value '2' for '--nodes <N>': 2 is not in 5..=32
    hint: bytenode demo --help
    exit 2
    $ bytenode help exit-code
    error: there is no command or topic "exit-code"
    hint: did you mean exit-codes?
    exit 2
    $ bytenode completion bash --json
    {"type":"error","code":"usage","message":"--json cannot be used with completion","hint":null,"exit":2}
    error: --json cannot be used with completion
    exit 2
    $ bytenode cat bn:/x --json
    {"type":"error","code":"usage","message":"--json cannot be used with cat","hint":null,"exit":2}
    error: --json cannot be used with cat
    exit 2
    $ bytenode -q -v ls
    error: the argument '--quiet' cannot be used with '--verbose'
    hint: bytenode ls --help
    exit 2
    $ bytenode --profile ../x ls
    error: "../x" is no profile name: use letters, digits, - and _
    exit 2
    $ bytenode login http://pool.example:7420
    error: http://pool.example:7420 would carry your token unencrypted to another machine
    hint: ssh -L 7420:127.0.0.1:7420 pool.example and then use http://127.0.0.1:7420
    exit 2
    $ bytenode admin node add --capacity 5X
    error: invalid value '5X' for '--capacity <SIZE>': "5X" is not a size: write 500G, 500GiB or 500GB
    hint: bytenode admin node add --help
    exit 2
    "#);
}

#[test]
fn without_a_pool_the_way_to_one_is_told() {
    let home = home();
    insta::assert_snapshot!(told(home.path(), &["ls"]), @r"
    error: no coordinator is known
    hint: bytenode up (or bytenode login URL for one that runs elsewhere)
    exit 7
    ");
    insta::assert_snapshot!(told(home.path(), &["--json", "ls"]), @r#"
    {"type":"error","code":"temporary","message":"no coordinator is known","hint":"bytenode up (or bytenode login URL for one that runs elsewhere)","exit":7}
    error: no coordinator is known
    hint: bytenode up (or bytenode login URL for one that runs elsewhere)
    exit 7
    "#);
    let mut command = bytenode(home.path(), &["ls"]);
    let output = command.env("BYTENODE_URL", "http://127.0.0.1:1").output().unwrap();
    insta::assert_snapshot!(shown(home.path(), &output), @r"
    error: not signed in to http://127.0.0.1:1
    hint: bytenode login http://127.0.0.1:1
    exit 4
    ");
    insta::assert_snapshot!(told(home.path(), &["down"]), @r"
    Nothing was started here.
    exit 0
    ");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "only the state directory, for the lock");
}

#[test]
fn names_on_the_error_stream_cannot_move_the_cursor() {
    let home = home();
    let output = bytenode(home.path(), &["ls", "x\u{1b}[2Jy"]).output().unwrap();
    assert!(!output.stderr.contains(&0x1b), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn colours_follow_the_option_and_the_environment() {
    let home = home();
    let always = bytenode(home.path(), &["--color", "always", "ls"]).output().unwrap();
    assert!(always.stderr.starts_with(b"\x1b[1m"), "{}", String::from_utf8_lossy(&always.stderr));
    for arguments in [&["ls"][..], &["--color=never", "ls"], &["--color", "never", "ls", "--frob"]] {
        let output = bytenode(home.path(), arguments).output().unwrap();
        assert!(!output.stderr.contains(&0x1b), "{arguments:?}");
    }
}

#[test]
fn a_closed_output_is_no_error() {
    let home = home();
    let mut child = bytenode(home.path(), &["completion", "zsh"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_user_file_is_read_strictly() {
    let home = home();
    let config = home.path().join("config.toml");
    fs::write(&config, "profil = 'x'\n").unwrap();
    let path = config.to_str().unwrap();
    insta::assert_snapshot!(told(home.path(), &["--config", path, "ls"]), @r"
    error: unknown key profil in ~/config.toml
    hint: did you mean profile?
    exit 2
    ");
    assert!(told(home.path(), &["--config", "nowhere.toml", "ls"]).ends_with("exit 5"));
    // The environment wins over the file.
    fs::write(&config, "[profiles.default]\nurl = 'http://127.0.0.1:2'\n").unwrap();
    assert!(told(home.path(), &["--config", path, "ls"]).contains("http://127.0.0.1:2"));
    let mut command = bytenode(home.path(), &["--config", path, "ls"]);
    let output = command.env("BYTENODE_URL", "http://127.0.0.1:3/").output().unwrap();
    assert!(shown(home.path(), &output).contains("http://127.0.0.1:3\n"));
}

#[cfg(unix)]
#[test]
fn credentials_that_others_could_read_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let home = home();
    let dir = home.path().join("state/bytenode");
    fs::create_dir_all(&dir).unwrap();
    let file = dir.join("credentials.toml");
    fs::write(&file, "[profiles]\ndefault = 'http://127.0.0.1:1'\n[tokens]\n'http://127.0.0.1:1' = 'bnt_secret'\n")
        .unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = bytenode(home.path(), &["ls"]);
    let output = command.env("XDG_STATE_HOME", home.path().join("state")).output().unwrap();
    insta::assert_snapshot!(shown(home.path(), &output), @r"
    error: ~/state/bytenode/credentials.toml is not used
    caused by: others could read it (mode 0644, needs 0600)
    hint: chmod 600 ~/state/bytenode/credentials.toml
    exit 4
    ");
}
