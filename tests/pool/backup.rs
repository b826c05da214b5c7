//! Backups in process: who gets one, how many at a time, and what the coordinator takes down of them.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};

use bytenode::admin::Admin;
use bytenode::api::Code;
use bytenode::backup::{Backup, Passphrase};

use crate::support::pool::{Pool, Setup};

fn passphrase() -> Passphrase {
    Passphrase::new("correct horse").unwrap()
}

/// A pool on disk, with a catalog that is far larger than what waits to be sent.
async fn pool() -> Pool {
    let pool = Pool::new(Setup::builtin(1).file()).await;
    let fill = "INSERT INTO key_page VALUES (1, 1, randomblob(4000000))";
    let change = |c: &rusqlite::Connection| {
        c.execute_batch("INSERT INTO version(id, vault_id, state, chunk_size, public, replicas, created_at) VALUES (1, 1, 0, 1, 0, 1, 0)")?;
        Ok(c.execute_batch(fill)?)
    };
    pool.coordinator.catalog().write(change).await.unwrap();
    pool
}

#[tokio::test]
async fn only_an_admin_gets_a_backup() {
    let pool = pool().await;
    let user = pool.user("eve").await.session;
    let refused = user.backup(&passphrase()).await.map(drop).unwrap_err();
    assert_eq!(refused.code, Code::NotAllowed);
    let refused = user.backup_kept(pool.seam.now()).await.unwrap_err();
    assert_eq!(refused.code, Code::NotAllowed);
    assert_eq!(pool.admin.session.status().await.unwrap().backed_up, None);
}

#[tokio::test]
async fn one_at_a_time_and_one_that_nobody_takes_ends() {
    let pool = pool().await;
    let session = &pool.admin.session;
    let mut first = session.backup(&passphrase()).await.unwrap();
    assert!(first.next().await.unwrap().is_ok());
    assert!(!pool.dir.path().join("backup.new").exists(), "the copy in plain has no name while it is sent");
    tokio::time::pause();
    let (again, minutes) = (passphrase(), tokio::time::advance(Duration::from_secs(120)));
    let refused = tokio::join!(session.backup(&again), minutes).0.map(drop).unwrap_err();
    assert_eq!(refused.code, Code::Busy);
    tokio::time::resume();
    // Whoever asked goes away in the middle, and the next one need not ask twice.
    drop(first);
    let second = session.backup(&passphrase()).await.unwrap();
    let pieces: Vec<bytes::Bytes> = second.try_collect().await.unwrap();
    let facts = Backup::open(&pieces.concat()[..], &passphrase()).unwrap().verify().unwrap();
    assert_eq!(facts.pool, session.whoami().await.unwrap().pool);
    assert!(pieces.concat().len() > 4_000_000);
}

#[tokio::test]
async fn the_last_backup_is_taken_down_for_good() {
    let mut pool = pool().await;
    let kept = async |pool: &Pool, made| {
        pool.admin.session.backup_kept(made).await.unwrap();
        pool.admin.session.status().await.unwrap().backed_up.unwrap()
    };
    let now = pool.seam.now();
    let (hour, earlier) = (jiff::SignedDuration::from_hours(1), now - jiff::SignedDuration::from_hours(1));
    assert_eq!(kept(&pool, earlier).await, earlier);
    assert_eq!(kept(&pool, earlier - hour).await, earlier, "one that is older changes nothing");
    assert_eq!(kept(&pool, now).await, now);
    pool.restart().await;
    assert_eq!(pool.admin.session.status().await.unwrap().backed_up, Some(now));
    let clamped = kept(&pool, now + hour).await;
    assert!(clamped >= now && clamped <= pool.seam.now(), "no backup is of a time to come");
}

/// What a restore would refuse is no backup.
#[tokio::test]
async fn keys_that_open_no_vault_make_no_backup() {
    let pool = pool().await;
    let spoil = |c: &rusqlite::Connection| Ok(c.execute("UPDATE vault SET wrapped_keys = zeroblob(92)", [])?);
    pool.coordinator.catalog().write(spoil).await.unwrap();
    let refused = pool.admin.session.backup(&passphrase()).await.map(drop).unwrap_err();
    assert_eq!(refused.code, Code::Integrity, "{refused:?}");
    assert!(!pool.dir.path().join("backup.new").exists());
}
