//! Names: moving, copying, listing, against a model.

use std::collections::BTreeMap;

use bytenode::api::{Api, Code, Kind};
use bytenode::path::RemotePath;

use crate::support::pool::{Pool, Setup, always, path};

/// What is where: a file's bytes, or a directory.
type Model = BTreeMap<Vec<String>, Option<Vec<u8>>>;

struct Names {
    pool: Pool,
    model: Model,
}

const ODD: [&str; 6] = ["a", "*?[", "-x\n", "\\", "é\u{301}", " "];

impl Names {
    fn name(&self) -> RemotePath {
        let seam = &self.pool.seam;
        let depth = 1 + seam.below(3);
        let mut at = RemotePath::root();
        for _ in 0..depth {
            at = at.join(ODD[seam.below(ODD.len() as u64) as usize]).unwrap();
        }
        at
    }

    fn key(path: &RemotePath) -> Vec<String> {
        path.segments().to_vec()
    }

    fn file_above(&self, path: &RemotePath) -> bool {
        let segments = path.segments();
        (1..segments.len()).any(|depth| matches!(self.model.get(&segments[..depth]), Some(Some(_))))
    }

    fn make_parents(&mut self, path: &RemotePath) {
        let segments = path.segments();
        for depth in 1..segments.len() {
            self.model.entry(segments[..depth].to_vec()).or_insert(None);
        }
    }

    async fn put(&mut self) {
        let to = self.name();
        let content = self.pool.seam.bytes::<3>().to_vec();
        let source = self.pool.admin.local(&content);
        let put = self.pool.admin.try_put_files(vec![(source, to.clone())], &always()).await.unwrap();
        let blocked = self.file_above(&to) || self.model.get(to.segments()) == Some(&None);
        assert_eq!(put.summary.failed == 1, blocked, "{to} {put:?}");
        if !blocked {
            self.make_parents(&to);
            self.model.insert(Self::key(&to), Some(content));
        }
    }

    async fn make_dir(&mut self) {
        let to = self.name();
        let made = self.pool.admin.session.make_dirs(std::slice::from_ref(&to)).await;
        let blocked = self.file_above(&to) || matches!(self.model.get(to.segments()), Some(Some(_)));
        assert_eq!(made.is_err(), blocked, "{to}");
        if !blocked {
            self.make_parents(&to);
            self.model.insert(Self::key(&to), None);
        }
    }

    async fn transfer(&mut self, moving: bool) {
        let (from, to) = (self.name(), self.name());
        let session = &self.pool.admin.session;
        let done = if moving { session.rename(&from, &to).await } else { session.copy(&from, &to).await };
        let there = self.model.contains_key(from.segments());
        let possible =
            there && !to.is_within(&from) && !self.model.contains_key(to.segments()) && !self.file_above(&to);
        assert_eq!(done.is_ok(), possible, "{from} {to} {done:?}");
        if !possible {
            return;
        }
        let depth = from.segments().len();
        let below: Vec<_> = self
            .model
            .iter()
            .filter(|(key, _)| key.starts_with(from.segments()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        self.make_parents(&to);
        for (key, value) in below {
            let moved = [to.segments(), &key[depth..]].concat();
            self.model.insert(moved, value);
            if moving {
                self.model.remove(&key);
            }
        }
    }

    async fn remove(&mut self) {
        let target = self.name();
        let recursive = self.pool.seam.below(2) == 0;
        let removed = self.pool.admin.session.remove(&target, recursive, false).await;
        match self.model.get(target.segments()) {
            None => assert_eq!(removed.unwrap_err().code, Code::NotFound),
            Some(None) if !recursive => assert_eq!(removed.unwrap_err().code, Code::NotEmpty),
            Some(_) => {
                let before = self.model.len() as u64;
                self.model.retain(|key, _| !key.starts_with(target.segments()));
                let removed = removed.unwrap();
                assert_eq!(removed.files + removed.dirs, before - self.model.len() as u64);
            }
        }
    }

    async fn compare(&self) {
        let listed = self.pool.admin.list("bn:/", 7).await;
        let found: Vec<_> = listed.iter().map(|entry| (entry.path.segments().to_vec(), entry.kind)).collect();
        let kind = |value: &Option<Vec<u8>>| if value.is_some() { Kind::File } else { Kind::Dir };
        let wanted: Vec<_> = self.model.iter().map(|(key, value)| (key.clone(), kind(value))).collect();
        assert_eq!(found, wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn names_behave_like_a_map() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut names = Names { pool: Pool::new(Setup::builtin(3).seed(seed)).await, model: Model::new() };
        for _ in 0..60 {
            match names.pool.seam.below(8) {
                0..3 => names.put().await,
                3 => names.make_dir().await,
                4 => names.transfer(true).await,
                5 => names.transfer(false).await,
                6 => names.remove().await,
                _ => names.compare().await,
            }
        }
        names.compare().await;
        for (key, value) in &names.model {
            if let Some(content) = value {
                let name = format!("bn:/{}", key.join("/"));
                assert_eq!(names.pool.admin.get(&name).await, *content);
            }
        }
        let session = &names.pool.admin.session;
        bytenode::admin::Admin::gc(&**session, true, false).await.unwrap();
        let status = bytenode::admin::Admin::status(&**session).await.unwrap();
        let files: Vec<usize> = names.model.values().flatten().map(Vec::len).collect();
        assert_eq!((status.files, status.bytes), (files.len() as u64, files.iter().sum::<usize>() as u64));
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_keeps_paths_within_their_limit() {
    let pool = Pool::new(Setup::builtin(3)).await;
    let long = "x".repeat(255);
    let deep = |count: usize| format!("bn:/{}", vec![long.as_str(); count].join("/"));
    pool.admin.put(&format!("{}/f", deep(10)), b"x").await;
    pool.admin.session.make_dirs(&[path(&format!("bn:/y/{}", deep(8).trim_start_matches("bn:/")))]).await.unwrap();
    let to = path(&format!("bn:/y/{}/z", deep(8).trim_start_matches("bn:/")));
    let from = path(&deep(1));
    for refused in [pool.admin.session.rename(&from, &to).await, pool.admin.session.copy(&from, &to).await] {
        assert_eq!(refused.unwrap_err().code, Code::Usage);
    }
    assert_eq!(pool.admin.list("bn:/", 7).await.len(), 11 + 9);
}

#[tokio::test(start_paused = true)]
async fn the_root_is_a_directory() {
    let pool = Pool::new(Setup::builtin(3)).await;
    let (session, root) = (&pool.admin.session, RemotePath::root());
    assert_eq!(session.stat(&root).await.unwrap().kind, Kind::Dir);
    assert!(session.rename(&root, &path("bn:/a")).await.is_err());
    assert!(session.copy(&root, &path("bn:/a")).await.is_err());
    assert_eq!(pool.admin.put_with("bn:/", b"x", &always()).await.error().code, Code::WrongKind);
    pool.admin.put("bn:/a", b"x").await;
    pool.admin.put("bn:/d/b", b"y").await;
    assert_eq!(session.remove(&root, false, true).await.unwrap_err().code, Code::NotEmpty);
    let removed = session.remove(&root, true, false).await.unwrap();
    assert_eq!((removed.files, removed.dirs), (2, 1));
    assert!(pool.admin.list("bn:/", 7).await.is_empty());
    bytenode::admin::Admin::gc(&**session, true, false).await.unwrap();
    assert_eq!(pool.copies(), 0);
    pool.admin.put("bn:/a", b"x").await;
}
