//! The README's blocks without a transcript, run line by line as they stand there: Kubo nodes, tunnels, tokens, services,
//! signing in, backups. What a test puts in the place of what is not there (another machine, a fixed port, `/var/lib`) is
//! declared beside it, and must occur in the block; so a README that is wrong fails, and so does one that moves on.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::cluster::{Cluster, Guarded, Ran, bytes, signal};
use crate::support::kubo::{self, Kubo};

const README: &str = include_str!("../README.md");

/// The blocks under a heading that are neither transcripts nor of another language.
fn blocks(heading: &str) -> Vec<Vec<String>> {
    let section = README.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}")).1;
    let section = section.split("\n## ").next().unwrap();
    let fenced = section.split("\n```").collect::<Vec<_>>();
    // Before the first fence, in it, between it and the next, and so on.
    let plain = fenced.iter().skip(1).step_by(2).filter_map(|block| block.strip_prefix('\n'));
    plain.map(|block| block.lines().map(str::to_owned).collect()).collect()
}

/// The same with what stands for what is not there.
fn with(block: &[String], places: &[(&str, &str)]) -> Vec<String> {
    for (from, _) in places {
        assert!(block.iter().any(|line| line.contains(from)), "{from} is not in {block:#?}");
    }
    let put = |line: &String| places.iter().fold(line.clone(), |line, (from, to)| line.replace(from, to));
    block.iter().map(put).collect()
}

/// A shell of a user. `sudo` only runs what it is given.
struct Shell {
    user: Cluster,
    path: std::ffi::OsString,
}

impl Shell {
    fn new() -> Self {
        let user = Cluster::none();
        let bin = user.work().with_file_name("bin");
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("sudo"), "#!/bin/sh\nexec \"$@\"\n").unwrap();
        fs::set_permissions(bin.join("sudo"), PermissionsExt::from_mode(0o755)).unwrap();
        let built = Path::new(env!("CARGO_BIN_EXE_bytenode")).parent().unwrap();
        let kubo =
            std::env::var_os("BYTENODE_TEST_IPFS").and_then(|path| Some(PathBuf::from(path).parent()?.to_owned()));
        let known = std::env::var_os("PATH").unwrap();
        let before = [bin, built.to_owned()].into_iter().chain(kubo);
        let path = std::env::join_paths(before.chain(std::env::split_paths(&known))).unwrap();
        Self { user, path }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        self.user.environment(&mut command).env("PATH", &self.path).args(["-c", line]).stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Ran {
        Ran::of(self.command(line).output().unwrap())
    }

    /// Runs a line that must succeed; a remark three spaces behind it is none of it.
    fn ok(&self, line: &str) -> Ran {
        let line = line.split("   ").next().unwrap();
        let ran = self.run(line);
        assert_eq!(ran.code, 0, "$ {line}\n{}{}", ran.text(), ran.stderr);
        ran
    }

    /// Stores a file, gets it back and compares.
    fn keeps(&self, name: &str) {
        self.user.file(name, &bytes(name.len() as u64, 1_200_000));
        self.user.ok(&["put", name, "bn:/", "--replicas", "1"]);
        self.gives(name);
    }

    fn gives(&self, name: &str) {
        let content = bytes(name.len() as u64, 1_200_000);
        assert!(self.user.ok(&["cat", &format!("bn:/{name}")]).stdout == content, "{name}");
    }
}

/// Passes connections on, as `ssh -L` does; where to, may change.
struct Forwarder {
    port: u16,
    to: Arc<Mutex<SocketAddr>>,
}

impl Forwarder {
    fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, to) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(to)));
        let target = Arc::clone(&to);
        std::thread::spawn(move || {
            for incoming in listener.incoming().flatten() {
                // A target that is not there closes the connection, as ssh does.
                let Ok(outgoing) = TcpStream::connect(*target.lock().unwrap()) else { continue };
                let (back, forth) = (outgoing.try_clone().unwrap(), incoming.try_clone().unwrap());
                for (mut from, mut to) in [(incoming, outgoing), (back, forth)] {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    });
                }
            }
        });
        Self { port, to }
    }

    /// What the `-L` options of an `ssh` line ask for, with `there` naming what really listens on each port of the other
    /// machine; the local ports as the README has them, and the forwarders.
    fn of_ssh(line: &str, there: &[(&str, &str)]) -> Vec<(String, Self)> {
        assert!(line.starts_with("ssh -N -L "), "{line}");
        let options = line.split(" -L ").skip(1).map(|rest| rest.split(' ').next().unwrap());
        let forwarder = |option: &str| {
            let (local, remote) = option.split_once(':').unwrap();
            let real = there.iter().find(|(port, _)| remote == format!("127.0.0.1:{port}"));
            let real = real.unwrap_or_else(|| panic!("nothing listens on {remote}")).1;
            (local.to_owned(), Self::start(socket(real)))
        };
        options.map(forwarder).collect()
    }
}

/// The address in `http://127.0.0.1:PORT`.
fn socket(url: &str) -> SocketAddr {
    url.trim().strip_prefix("http://").unwrap().parse().unwrap()
}

#[test]
fn i_have_one_kubo() {
    let Some(kubo) = Kubo::start(&[]) else { return };
    let shell = Shell::new();
    std::os::unix::fs::symlink(kubo.path(), shell.user.work().with_file_name(".ipfs")).unwrap();
    shell.user.file("photos/a", &bytes(1, 1_500_000));
    let [block] = &blocks("I have one Kubo")[..] else { panic!("one block") };
    for line in block {
        shell.ok(line);
    }
    shell.user.ok(&["get", "bn:/photos", "back"]);
    assert_eq!(shell.user.read("back/a"), shell.user.read("photos/a"));
    assert_eq!(shell.user.exits(9, &["put", "photos", "bn:/three"]).text(), "", "the usual three copies");
}

#[test]
fn a_kubo_behind_a_tunnel() {
    let Some(kubo) = Kubo::start(&[]) else { return };
    let shell = Shell::new();
    shell.ok("bytenode up --nodes 0");
    let block = &blocks("I have Kubo on three machines")[0];
    let forwarders = Forwarder::of_ssh(&block[0], &[("5001", &kubo.api), ("8080", &kubo.gateway)]);
    let ports: Vec<(String, String)> =
        forwarders.iter().map(|(local, f)| (format!("127.0.0.1:{local}"), format!("127.0.0.1:{}", f.port))).collect();
    let places: Vec<(&str, &str)> = ports.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
    for line in with(&block[1..], &places) {
        shell.ok(&line);
    }
    let node = shell.user.json(&["admin", "node", "ls"]).0.swap_remove(0);
    assert_eq!((&node["name"], &node["zone"], &node["state"]), (&json!("nas"), &json!("nas"), &json!("online")));
    shell.keeps("a");
}

#[test]
fn a_kubo_with_a_token() {
    let Some(mut kubo) = Kubo::start(&[]) else { return };
    let shell = Shell::new();
    shell.ok("bytenode up --nodes 0");
    let [_, configure, add] = &blocks("I have Kubo on three machines")[..] else { panic!("three blocks") };
    for line in with(configure, &[("/ip4/10.0.0.5/tcp/5001", "/ip4/127.0.0.1/tcp/0")]) {
        shell.ok(&format!("IPFS_PATH='{}' {line}", kubo.path().display()));
    }
    kubo.restart();
    let secret = configure[0].split('"').find(|word| word.starts_with("bearer:")).unwrap();
    shell.user.file("nas.secret", secret.as_bytes());
    let chmod = "chmod 600 nas.secret";
    assert!(README.contains(&format!("`{chmod}`")));
    let places = [("http://10.0.0.5:5001", kubo.api.as_str())];
    let [line] = &with(add, &places)[..] else { panic!("one line") };
    assert_ne!(shell.run(line).code, 0, "others could read the secret");
    shell.ok(chmod);
    assert_ne!(shell.run(&line.replace("--token-file nas.secret", "")).code, 0, "the secret is asked for");
    shell.ok(line);
    shell.keeps("a");
}

#[test]
fn three_kubo_daemons_on_one_machine() {
    if kubo::binary().is_none() {
        return;
    }
    let shell = Shell::new();
    let start = "examples/kubo-on-one-machine.sh start DIR";
    assert!(README.contains(&format!("`{start}`")));
    let script = |words: &str| {
        let root = env!("CARGO_MANIFEST_DIR");
        format!("'{root}/{}", words.replacen(".sh", ".sh'", 1)).replace("DIR", "kubos")
    };
    let told = shell.ok(&script(start)).text();
    let added = || {
        shell.ok("bytenode up --nodes 0");
        let addresses = told.lines().map(|line| line.split_whitespace().nth(1).unwrap());
        addresses.map(|url| shell.user.run(&["admin", "node", "add", url]).code).collect::<Vec<_>>()
    };
    let codes = std::panic::catch_unwind(std::panic::AssertUnwindSafe(added));
    let health = shell.user.run(&["put", "kubos/kubo1/config", "bn:/"]);
    shell.ok(&script("examples/kubo-on-one-machine.sh stop DIR"));
    assert_eq!(codes.unwrap(), [0, 0, 0], "{told}");
    assert_eq!(health.code, 0, "{}", health.stderr);
}

/// The value of a key of a unit.
fn value<'a>(unit: &'a [String], key: &str) -> &'a str {
    let found = unit.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {key} in {unit:#?}"))
}

/// A service as systemd would run it, on a port of its own choice.
fn serve(shell: &Shell, exec: &str) -> (Guarded, String) {
    let mut words = exec.split(' ');
    assert_eq!(words.next(), Some("/usr/local/bin/bytenoded"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_bytenoded"));
    shell.user.environment(&mut command).args(words).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = Guarded(command.stderr(Stdio::null()).spawn().unwrap());
    let url = child.first_line().trim().to_owned();
    assert!(url.starts_with("http://127.0.0.1:"), "{exec}: {url:?}");
    (child, url)
}

/// Stops it as systemd does, in the time that the unit gives it.
fn stop(mut service: Guarded, unit: &[String]) {
    let limit = Duration::from_secs(value(unit, "TimeoutStopSec").parse().unwrap());
    let begun = Instant::now();
    signal(&service.0, Signal::TERM);
    assert_eq!(service.0.wait().unwrap().code(), Some(0));
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
}

/// The two units of the README: the second has the lines of the first but for those that it names.
fn units() -> [Vec<String>; 2] {
    let blocks = blocks("A server without a screen");
    let key = |line: &str| line.split('=').next().unwrap().to_owned();
    let replaced = |line: &String| blocks[1].iter().find(|other| key(other) == key(line)).unwrap_or(line).clone();
    [blocks[0].clone(), blocks[0].iter().map(replaced).collect()]
}

#[test]
fn the_units_are_units() {
    let home = tempfile::tempdir().unwrap();
    for (unit, name) in units().iter().zip(["bytenoded.service", "bytenode-node.service"]) {
        assert!(README.contains(name));
        let state = value(unit, "StateDirectory");
        assert!(value(unit, "ExecStart").contains(&format!("--data /var/lib/{state} ")), "{unit:#?}");
        let file = home.path().join(name);
        let text = unit.join("\n").replace("/usr/local/bin/bytenoded", env!("CARGO_BIN_EXE_bytenoded"));
        fs::write(&file, text).unwrap();
        // Where there is no systemd, its names have no meaning.
        if let Ok(checked) = Command::new("systemd-analyze").arg("verify").arg(&file).output() {
            let said = String::from_utf8_lossy(&checked.stderr).into_owned();
            assert!(checked.status.success() && said.is_empty(), "{said}");
        }
    }
}

#[test]
fn a_server_without_a_screen() {
    let shell = Shell::new();
    let blocks = blocks("A server without a screen");
    let [_, _, tokens, elsewhere] = &blocks[..] else { panic!("four blocks: {blocks:#?}") };
    let [unit, node_unit] = units();
    // What stands for `/var/lib`, with the directories that systemd would make, and for the ports.
    let lib = shell.user.work().with_file_name("lib");
    for unit in [&unit, &node_unit] {
        let mode = u32::from_str_radix(value(unit, "StateDirectoryMode"), 8).unwrap();
        fs::create_dir_all(lib.join(value(unit, "StateDirectory"))).unwrap();
        fs::set_permissions(lib.join(value(unit, "StateDirectory")), PermissionsExt::from_mode(mode)).unwrap();
    }
    let lib = lib.to_str().unwrap().to_owned();
    let config = shell.user.file("bytenode.toml", include_bytes!("../config.example.toml"));
    let default = shell.ok("bytenoded --help").text();
    assert!(default.contains("[default: 127.0.0.1:7420]"), "{default}");
    let exec =
        value(&unit, "ExecStart").replace("/var/lib", &lib).replace("/etc/bytenode.toml", config.to_str().unwrap())
            + " --listen 127.0.0.1:0";
    let check = "bytenoded --check-config --config FILE";
    assert!(README.contains(&format!("`{check}`")));
    shell.ok(&check.replace("FILE", "bytenode.toml"));
    let (mut coordinator, url) = serve(&shell, &exec);
    let node = value(&node_unit, "ExecStart").replace("/var/lib", &lib).replace("127.0.0.1:7421", "127.0.0.1:0");
    let (_node, node_url) = serve(&shell, &node);
    let front = Forwarder::start(socket(&url));
    let fixed = format!("http://127.0.0.1:{}", front.port);

    let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let places = [
        ("/var/lib", lib.as_str()),
        ("http://127.0.0.1:7420", &fixed),
        ("http://127.0.0.1:7421", &node_url),
        ("$USER", user.trim()),
    ];
    for line in with(tokens, &places) {
        shell.ok(&line);
    }
    shell.keeps("a");

    from_elsewhere(&shell, elsewhere, &lib, &fixed);

    // A backup, the loss of all, and what comes back.
    shell.user.file("secret", b"correct horse");
    shell.ok("chmod 600 secret");
    shell.ok("bytenode admin backup --passphrase-file secret my.backup");
    shell.keeps("stored-later");
    stop(coordinator, &unit);
    let data = Path::new(&lib).join("bytenode");
    fs::rename(&data, data.with_file_name("lost")).unwrap();
    let restore = "sudo bytenoded restore FILE --data /var/lib/bytenode";
    assert!(README.contains(&format!("`{restore}`")));
    shell.ok(&(restore.replace("FILE", "my.backup").replace("/var/lib", &lib) + " --passphrase-file secret"));
    let again;
    (coordinator, again) = serve(&shell, &exec);
    *front.to.lock().unwrap() = socket(&again);
    shell.gives("a");
    shell.user.exits(5, &["stat", "bn:/stored-later"]);
    stop(coordinator, &unit);
}

#[test]
fn backups() {
    let shell = Shell::new();
    let [make, cron, ssh, restore] = &blocks("Backups")[..] else { panic!("four blocks") };
    shell.ok("bytenode up --nodes 1");
    shell.keeps("a");
    make.iter().for_each(|line| drop(shell.ok(line)));
    shell.keeps("stored-later");
    // `up` and `doctor` show the same line, with the program where it really is.
    let [cron] = &cron[..] else { panic!("one line") };
    let built = env!("CARGO_BIN_EXE_bytenode");
    let lost = shell.user.member("coordinator").data.join("backup.last");
    fs::rename(&lost, shell.user.work().join("last")).unwrap();
    let shown = shell.ok("bytenode up").stderr;
    assert!(shown.contains(&cron.replace("~/.cargo/bin/bytenode", built)), "{shown}");
    fs::rename(shell.user.work().join("last"), &lost).unwrap();
    // What cron would run, in its surroundings.
    let other = shell.user.work().join("other");
    fs::create_dir(&other).unwrap();
    let line = cron.strip_prefix("0 3 * * * ").unwrap().replace(r"\%", "%");
    let places = [("~/.cargo/bin/bytenode", built), ("/mnt/other", other.to_str().unwrap())];
    let ran = shell.ok(&format!("PATH=/usr/bin:/bin; {}", with(&[line], &places)[0]));
    assert_eq!((ran.text(), ran.stderr), (String::new(), String::new()), "cron sends what is printed");
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
    let [piped] = &with(ssh, &[("ssh nas", "sh -c")])[..] else { panic!("one line") };
    shell.ok(piped);
    assert!(fs::metadata(shell.user.work().join("bytenode.backup")).unwrap().len() > 100_000);

    shell.ok("bytenode down");
    let data = shell.user.data().join("coordinator");
    fs::remove_dir_all(&data).unwrap();
    let [restore, up, health] = &with(restore, &[("~/.local/share/bytenode/coordinator", data.to_str().unwrap())])[..]
    else {
        panic!("three lines")
    };
    shell.ok(restore);
    shell.ok(up);
    shell.gives("a");
    shell.user.exits(5, &["stat", "bn:/stored-later"]);
    // What the restored catalog does not know is a finding, and nothing that is mended by itself.
    let code = shell.run(health).code;
    assert!(code == 0 || code == 12, "{code}");
}

/// Signs in from another machine, typing the token on a terminal that `script` makes (where it is not that of util-linux,
/// the token comes through a pipe instead).
fn from_elsewhere(server: &Shell, block: &[String], lib: &str, url: &str) {
    let shell = Shell::new();
    let [ssh, login] = block else { panic!("two lines") };
    let (local, tunnel) = Forwarder::of_ssh(ssh, &[("7420", url)]).remove(0);
    let places = [(format!("127.0.0.1:{local}"), format!("127.0.0.1:{}", tunnel.port))];
    let login = with(std::slice::from_ref(login), &places.each_ref().map(|(from, to)| (from.as_str(), to.as_str())));
    let token = fs::read(format!("{lib}/bytenode/admin.token")).unwrap();
    let typed = shell.run("script --version").text().contains("util-linux");
    let login =
        if typed { format!("script -qec '{}' /dev/null", login[0]) } else { format!("{} --with-token", login[0]) };
    let mut child = Guarded(shell.command(&login).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut input = child.0.stdin.take().unwrap();
    input.write_all(&[token.trim_ascii(), b"\n"].concat()).unwrap();
    if !typed {
        drop(input);
    }
    assert_eq!(child.0.wait().unwrap().code(), Some(0), "{login}");
    shell.gives("a");
    shell.keeps("from-elsewhere");
    server.gives("from-elsewhere");
}
