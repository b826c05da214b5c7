//! Power loss during a get, at every change that it makes to the file system, and for every state that may leave: a
//! destination shows what was there or the whole new file; what was told of as there stays; the same get finishes.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytenode::files::{self, Change};
use bytenode::get::{self, GetOptions, GetOutcome, Wanted};
use bytenode::put::{Overwrite, PutOptions};
use bytenode::tree::{Found, LocalFile};
use jiff::Timestamp;

use crate::support::pool::{MIB, Pool, Setup, bytes, path};
use crate::support::power::{Disk, State};

const CHUNK: usize = 64 << 10;
const MODIFIED: u64 = 1_600_000_000;
/// States looked at after each change, at most (those that differ in one thing come on top).
const STATES: usize = 60;
/// States of a scene that the same get is run on again, at most.
const AGAIN: usize = 60;
const SEED: u64 = 7;

/// A file that is got.
struct File {
    /// Its path at the destination, and in the pool.
    path: &'static str,
    content: Vec<u8>,
    executable: bool,
    /// What is at the destination before.
    before: Option<Vec<u8>>,
}

impl File {
    fn new(path: &'static str, content: Vec<u8>) -> Self {
        Self { path, content, executable: false, before: None }
    }
}

/// A file of several chunks, one of them a hole.
fn large(seed: u64) -> Vec<u8> {
    let mut content = bytes(seed, MIB + 3 * CHUNK + 77);
    content[MIB..MIB + CHUNK].fill(0);
    content
}

/// A get, and all that may become of it.
struct Scene {
    pool: Pool,
    files: Vec<File>,
    overwrite: Overwrite,
}

/// What a get did.
struct Run {
    changes: Vec<Change>,
    /// After how many changes which file was told of as there.
    told: Vec<(usize, PathBuf)>,
    failed: Vec<String>,
}

impl Scene {
    async fn new(files: Vec<File>, overwrite: Overwrite) -> Self {
        let mut setup = Setup::builtin(3);
        setup.policy.chunk_size = CHUNK as u32;
        let pool = Pool::new(setup).await;
        for file in &files {
            let to = path(&format!("bn:/{}", file.path));
            let dirs: Vec<_> = Path::new(file.path).ancestors().skip(1).filter(|dir| *dir != Path::new("")).collect();
            for dir in dirs.iter().rev() {
                let dir = path(&format!("bn:/{}", dir.display()));
                bytenode::api::Api::make_dirs(&*pool.admin.session, &[dir]).await.unwrap();
            }
            let (source, size) = (pool.admin.local(&file.content), file.content.len() as u64);
            let modified = Timestamp::from_second(MODIFIED as i64).unwrap();
            let found = Found::File(LocalFile { source, to, size, modified, executable: file.executable });
            let put = pool.admin.try_put_found(vec![found], &PutOptions::default()).await.unwrap();
            assert_eq!(put.summary.files, 1, "{put:?}");
        }
        Self { pool, files, overwrite }
    }

    /// A directory as it was before the first get.
    fn begin(&self) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in &self.files {
            if let Some(before) = &file.before {
                fs::write(root.path().join(file.path), before).unwrap();
            }
        }
        root
    }

    /// Runs the get, as the command does: directories are made on the way.
    async fn run(&self, root: &Path) -> Run {
        let mut wanted = Vec::new();
        for file in &self.files {
            let entry = self.pool.admin.stat(&format!("bn:/{}", file.path)).await.unwrap();
            wanted.push(Wanted { entry, dest: root.join(file.path) });
        }
        let (mut told, mut failed) = (Vec::new(), Vec::new());
        let below = |dest: PathBuf| dest.strip_prefix(root).unwrap().to_owned();
        let mut each = |one| match one {
            GetOutcome::Fetched { dest, .. } | GetOutcome::Unchanged { dest, .. } => {
                told.push((files::count(), below(dest)));
            }
            GetOutcome::Failed { dest, error, .. } => failed.push(format!("{dest:?}: {error:?}")),
        };
        let options = GetOptions { overwrite: self.overwrite, ..GetOptions::default() };
        let made = wanted.into_iter().inspect(|one| get::make_dirs(one.dest.parent().unwrap()).unwrap());
        files::begin();
        let done = get::get(&self.pool.admin.context, Box::new(made), &options, &mut each).await;
        let changes = files::end();
        done.unwrap();
        Run { changes, told, failed }
    }

    /// Fails unless each destination shows what it may, and must once it was told of.
    fn check(&self, state: &State, told: &[&PathBuf], when: &str) {
        for file in &self.files {
            let (path, found) = (Path::new(file.path), state.files.get(Path::new(file.path)));
            let told = told.contains(&&path.to_owned());
            match found {
                Some(found) if *found.bytes == file.content => {
                    let kept = file.before.as_ref() == Some(&file.content);
                    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(MODIFIED);
                    assert!(found.modified == at || kept, "{path:?} has another time {when}: {:?}", found.modified);
                    assert_eq!(found.mode & 0o100 != 0, file.executable, "{path:?} has other permissions {when}");
                }
                Some(_) if told => panic!("{path:?} was told of and has other content {when}"),
                None if told => panic!("{path:?} was told of and is gone {when}"),
                Some(found) if Some(&*found.bytes) == file.before.as_ref() => {}
                None if file.before.is_none() => {}
                Some(found) => panic!("{path:?} has {} bytes of something {when}", found.bytes.len()),
                None => panic!("{path:?} is gone, and nothing took its place, {when}"),
            }
        }
    }

    /// Looks at what a power loss may leave after each of the changes.
    fn cut(&self, mut disk: Disk, run: &Run, when: &str, each: &mut dyn FnMut(State, String)) {
        for number in 0..=run.changes.len() {
            let told: Vec<_> = run.told.iter().filter(|(at, _)| *at <= number).map(|(_, path)| path).collect();
            let next = run.changes.get(number);
            let when = || match next {
                Some(change) => format!("{when}, before change {number}, {:.120}", format!("{change:?}")),
                None => format!("{when}, at the end"),
            };
            for state in disk.states(SEED + number as u64, STATES) {
                self.check(&state, &told, &when());
                each(state, when());
            }
            next.into_iter().for_each(|change| disk.apply(change));
        }
    }

    /// Runs the get on a state, after which all is there for good and nothing else.
    async fn again(&self, state: &State, when: &str) {
        let root = tempfile::tempdir().unwrap();
        state.write(root.path());
        let mut disk = Disk::of(root.path());
        let run = self.run(root.path()).await;
        assert!(run.failed.is_empty() && run.told.len() == self.files.len(), "{when}: {:?}", run.failed);
        run.changes.iter().for_each(|change| disk.apply(change));
        let told: Vec<_> = run.told.iter().map(|(_, path)| path).collect();
        for state in disk.states(SEED, STATES) {
            self.check(&state, &told, &format!("after it was run again: {when}"));
        }
        let now = Disk::of(root.path()).states(0, 1).remove(0);
        let names: Vec<_> = now.files.keys().collect();
        assert_eq!(names.len(), self.files.len(), "{when}: something is left of it: {names:?}");
    }

    /// Cuts the power at every change of a get, and runs it again on what that may leave.
    async fn power_is_cut(&self) {
        let root = self.begin();
        let disk = Disk::of(root.path());
        let run = self.run(root.path()).await;
        assert!(run.failed.is_empty() && run.told.len() == self.files.len(), "{:?}", run.failed);
        let (mut seen, mut unlike, mut looked) = (HashSet::new(), BTreeMap::new(), 0);
        self.cut(disk, &run, "in a get", &mut |state, when| {
            looked += 1;
            if seen.insert(state.digest()) {
                unlike.insert(state.digest(), (state, when));
            }
        });
        // In the order of their digests, which is none.
        for (state, when) in unlike.values().take(AGAIN) {
            self.again(state, when).await;
        }
        println!("seed {SEED}: {} changes, {looked} states, {} unlike", run.changes.len(), unlike.len());
    }

    /// Kills a get at every change; then cuts the power at every change of the get that goes on.
    async fn killed_then_power_is_cut(&self) {
        let first = {
            let root = self.begin();
            (Disk::of(root.path()), self.run(root.path()).await, root)
        };
        let (mut disk, run, _root) = first;
        let mut looked = 0;
        for (number, change) in run.changes.iter().enumerate() {
            disk.apply(change);
            let root = tempfile::tempdir().unwrap();
            let left = disk.go_on(root.path());
            let second = self.run(root.path()).await;
            assert!(second.failed.is_empty(), "killed after change {number}: {:?}", second.failed);
            let when =
                format!("in the get after one that was killed after change {number}, {:.120}", format!("{change:?}"));
            self.cut(left, &second, &when, &mut |_, _| looked += 1);
        }
        println!("seed {SEED}: killed after each of {} changes, {looked} states", run.changes.len());
    }
}

async fn of_several_chunks(before: Option<Vec<u8>>, overwrite: Overwrite) -> Scene {
    Scene::new(vec![File { executable: true, before, ..File::new("file", large(1)) }], overwrite).await
}

fn nested() -> Vec<File> {
    let files = [("one/a", 1), ("one/b", 5000), ("one/two/three/c", 700), ("one/two/empty", 0), ("other/d", 2)];
    let new = |(number, (path, length)): (usize, (_, _))| File::new(path, bytes(number as u64, length));
    files.into_iter().enumerate().map(new).collect()
}

#[tokio::test(start_paused = true)]
async fn power_loss_in_a_get_of_several_chunks() {
    of_several_chunks(None, Overwrite::Never).await.power_is_cut().await;
}

#[tokio::test(start_paused = true)]
async fn power_loss_in_a_get_over_another_file() {
    let mut scene = of_several_chunks(Some(large(2)), Overwrite::Always).await;
    scene.power_is_cut().await;
    // Told apart by its time alone, which must not get there before the content.
    scene.overwrite = Overwrite::IfChanged;
    scene.power_is_cut().await;
}

#[tokio::test(start_paused = true)]
async fn power_loss_in_a_get_of_a_small_file() {
    let file = || File { executable: true, ..File::new("file", bytes(1, 9000)) };
    Scene::new(vec![file()], Overwrite::Never).await.power_is_cut().await;
    let before = Some(bytes(2, 9000));
    let scene = Scene::new(vec![File { before, ..file() }], Overwrite::IfChanged).await;
    scene.power_is_cut().await;
    scene.killed_then_power_is_cut().await;
}

#[tokio::test(start_paused = true)]
async fn power_loss_in_a_get_of_a_new_tree() {
    for overwrite in [Overwrite::Never, Overwrite::Always] {
        Scene::new(nested(), overwrite).await.power_is_cut().await;
    }
}

/// A get that was killed between giving a file its name and syncing the directory left a file that the next one found
/// unchanged, and told of as there. A power loss then took it away.
#[tokio::test(start_paused = true)]
async fn power_loss_after_a_get_that_was_killed() {
    Scene::new(nested(), Overwrite::Never).await.killed_then_power_is_cut().await;
    of_several_chunks(None, Overwrite::Never).await.killed_then_power_is_cut().await;
}
