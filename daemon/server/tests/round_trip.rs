//! Every method of the traits over a real socket: arguments arrive equal, results and errors come back equal.

use std::collections::BTreeSet;
use std::fmt::Debug;

use futures_util::TryStreamExt;

use super::fixture::{self, CODES};
use super::{Client, Served};
use crate::admin::{Admin, Steer};
use crate::api::{Api, ApiError, ApiResult};
use crate::daemon::routes;

type Outcomes = Vec<(&'static str, Result<(), ApiError>)>;

fn same<T: PartialEq + Debug>(expected: T) -> impl FnOnce(T) {
    move |got| assert_eq!(got, expected)
}

/// Calls everything of the data half; whatever succeeds equals its fixture.
async fn call_api(client: &Client) -> Outcomes {
    let (path, other, lease) = (fixture::path(), fixture::other_path(), fixture::lease());
    vec![
        ("stat", client.stat(&path).await.map(same(fixture::entry()))),
        ("lookup", client.lookup(&fixture::paths()).await.map(same(fixture::found()))),
        ("list", client.list(&fixture::list_request()).await.map(same(fixture::listing()))),
        ("make_dirs", client.make_dirs(&fixture::paths()).await),
        ("rename", client.rename(&path, &other).await.map(same(fixture::entry()))),
        ("copy", client.copy(&path, &other).await.map(same(fixture::entry()))),
        ("remove", client.remove(&path, false, true).await.map(same(fixture::removed()))),
        ("begin_put", client.begin_put(&fixture::begin_put()).await.map(same(fixture::put_session()))),
        ("plan_chunks", client.plan_chunks(lease, &fixture::plan_chunks()).await.map(same(fixture::planned()))),
        ("packs_sent", client.packs_sent(lease, &fixture::packs_sent()).await.map(same(fixture::planned()))),
        ("commit_files", client.commit_files(lease, &fixture::commit_files()).await.map(same(fixture::committed()))),
        ("renew", client.renew(lease).await),
        ("release", client.release(lease).await),
        ("open_read", client.open_read(&fixture::open_read()).await.map(same(fixture::read_session()))),
        ("read_chunks", client.read_chunks(lease, &fixture::read_chunks()).await.map(same(fixture::manifest()))),
        ("report_bad", client.report_bad(&fixture::bad_copies()).await),
    ]
}

/// The same for the other half.
async fn call_admin(client: &Client) -> Outcomes {
    let (name, path, cursor) = (fixture::NODE_NAME, fixture::path(), Some(fixture::CURSOR));
    let report = fixture::node_report;
    vec![
        ("whoami", client.whoami().await.map(same(fixture::whoami()))),
        ("create_token", client.create_token(name).await.map(same(fixture::new_token()))),
        ("revoke_own_token", client.revoke_own_token().await),
        ("chunk_rows", client.chunk_rows(&path, cursor, 7).await.map(same(fixture::chunk_rows()))),
        ("status", client.status().await.map(same(fixture::status()))),
        ("nodes", client.nodes().await.map(same(vec![fixture::node_info()]))),
        ("ways", client.ways(name).await.map(same(fixture::ways()))),
        ("risks", client.risks().await.map(same(fixture::risks()))),
        ("node_add", client.node_add(&fixture::node_add()).await.map(same(report()))),
        ("node_test", client.node_test(name).await.map(same(report()))),
        ("node_remove", client.node_remove(name, true, false).await.map(same(fixture::health_report()))),
        ("health", client.health(&fixture::health_request()).await.map(same(fixture::health_report()))),
        ("node_set", client.node_set(name, &fixture::node_set()).await.map(same(fixture::node_report()))),
        ("node_events", client.node_events(name).await.map(same(fixture::node_events()))),
        ("task_start", client.task_start(&fixture::task_request()).await.map(same(fixture::task()))),
        ("tasks", client.tasks().await.map(same(vec![fixture::task()]))),
        ("task", client.task(u64::MAX, 3, 4).await.map(same(fixture::task_report()))),
        ("task_steer", client.task_steer(7, Steer::Cancel).await.map(same(fixture::task()))),
        ("gc", client.gc(true, false).await.map(same(fixture::swept()))),
        ("scrub", client.scrub(true, false).await.map(same(fixture::scrubbed()))),
        ("backup", backup(client).await.map(same(fixture::backup()))),
        ("backup_kept", client.backup_kept(fixture::time()).await),
        ("adopt", client.adopt(&fixture::adopt()).await.map(same(fixture::adopted()))),
    ]
}

async fn backup(client: &Client) -> ApiResult<Vec<u8>> {
    let pieces: Vec<bytes::Bytes> = client.backup(&fixture::passphrase()).await?.try_collect().await?;
    Ok(pieces.concat())
}

async fn call_all(served: &Served) -> Outcomes {
    served.script.go.add_permits(1);
    let client = served.client();
    let mut outcomes = call_api(&client).await;
    outcomes.extend(call_admin(&client).await);
    outcomes
}

#[tokio::test]
async fn every_call_arrives_and_comes_back_equal() {
    let served = Served::usual().await;
    let outcomes = call_all(&served).await;
    for (name, outcome) in &outcomes {
        assert_eq!(outcome, &Ok(()), "{name}");
    }
    let called: Vec<_> = outcomes.iter().map(|(name, _)| *name).collect();
    assert_eq!(served.script.take_calls(), called, "each call was made once");
    let routed: BTreeSet<_> = routes::table().iter().map(|route| route.name).collect();
    assert_eq!(routed, called.into_iter().collect(), "each row has a call");
}

#[tokio::test]
async fn every_error_comes_back_equal_from_every_call() {
    let served = Served::usual().await;
    for code in CODES {
        let error = ApiError::new(code, "bn:/\u{fc}\n\"x\" is wrong").hint("bytenode do this");
        *served.script.error.lock().unwrap() = Some(error.clone());
        for (name, outcome) in call_all(&served).await {
            assert_eq!(outcome, Err(error.clone()), "{name}");
        }
        assert_eq!(served.script.take_calls().len(), routes::table().len(), "no refused call is repeated");
    }
}

#[tokio::test]
async fn an_error_without_hint_stays_without_unless_it_is_about_signing_in() {
    let served = Served::usual().await;
    for code in CODES {
        *served.script.error.lock().unwrap() = Some(ApiError::new(code, "no"));
        let error = served.client().whoami().await.unwrap_err();
        let hint = (code == crate::api::Code::NotSignedIn).then(|| "bytenode login".to_owned());
        assert_eq!(error, ApiError { code, message: "no".to_owned(), hint });
    }
}

#[tokio::test]
async fn odd_paths_name_the_same_file_on_both_sides() {
    let served = Served::usual().await;
    let client = served.client();
    let long = "\u{fc}".repeat(127);
    let names =
        ["%", "%zz", "%2F", "%2e%2e", "a+b", "a b", "a&limit=1", "a=b", "#", "?", "\\", "\r\n", "\u{7f}", "\u{feff}"];
    for name in names.into_iter().chain(["...", "\u{202e}x", "e\u{301}", "\u{e9}", "\u{fffd}", long.as_str()]) {
        let path = fixture::other_path().join(name).unwrap();
        assert_eq!(ApiResult::Ok(fixture::entry_at(path.clone())), client.stat(&path).await, "{name:?}");
    }
    let deep = format!("bn:/{}", vec![long.as_str(); 16].join("/")).parse().unwrap();
    assert_eq!(client.stat(&deep).await, Ok(fixture::entry_at(deep)), "the longest path fits");
}
