//! The test of a node before registration, against a real Kubo.

#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

use bytenode::admin::CheckResult;
use bytenode::api::NodeKind;
use bytenode::id::{PackId, PoolId};
use bytenode::node::GrantToken;
use bytenode::node::http::{Credential, Limits};
use bytenode::node::probe::{Probe, ProbeOptions, probe};
use bytenode::seam::Seam;
use serde_json::json;

use crate::support::kubo::Kubo;

fn options(kubo: &Kubo) -> ProbeOptions {
    ProbeOptions {
        name: "kubo1".to_owned(),
        address: kubo.api.clone(),
        gateway: Some(kubo.gateway.clone()),
        credential: Credential::None,
        expected_id: None,
        pool: PoolId::from_bytes([1; 16]),
        epoch: 1,
        pack: PackId::new(1),
        limits: Limits::default(),
        seam: Seam::real(),
    }
}

fn results(probe: &Probe) -> Vec<(&str, CheckResult)> {
    probe.checks.iter().map(|check| (check.check.as_str(), check.result)).collect()
}

#[tokio::test]
async fn a_good_kubo_passes_with_its_risks_named() {
    let Some(kubo) = Kubo::start(&[("Datastore.StorageMax", json!("1GB"))]) else { return };
    let pins = kubo.call("pin/ls?type=recursive").await;
    let address = std::fs::read_to_string(kubo.path().join("api")).unwrap();
    let found = probe(&ProbeOptions { address, ..options(&kubo) }).await;
    let (ok, risk) = (CheckResult::Ok, CheckResult::Risk);
    let steps =
        ["reach", "auth", "version", "identity", "gateway", "write", "protect", "read", "drop", "space", "clock"];
    let mut expected: Vec<_> = steps.iter().map(|step| (*step, ok)).collect();
    expected.extend([("block_cache", ok), ("sync", risk), ("gc", risk), ("storage_max", risk), ("open_rpc", ok)]);
    assert_eq!(results(&found), expected, "{:#?}", found.checks);
    assert!(found.checks.iter().all(|check| (check.result == ok) == check.hint.is_none()));
    let node = found.node.unwrap();
    assert_eq!((node.kind, node.status.id.as_str()), (NodeKind::Kubo, kubo.id.as_str()));
    assert_eq!(node.gateway, kubo.gateway);
    assert_eq!(kubo.call("pin/ls?type=recursive").await, pins, "the test leaves nothing pinned");
}

#[tokio::test]
async fn a_live_block_cache_and_a_gateway_that_is_none_are_found() {
    let Some(kubo) = Kubo::start(&[("Datastore.BlockKeyCacheSize", json!(65536))]) else { return };
    let found = probe(&options(&kubo)).await;
    assert!(results(&found).contains(&("block_cache", CheckResult::Risk)), "{:#?}", found.checks);
    let found = probe(&ProbeOptions { gateway: Some(kubo.api.clone()), ..options(&kubo) }).await;
    assert_eq!(results(&found).last(), Some(&("gateway", CheckResult::Failed)), "{:#?}", found.checks);
    assert_eq!(found.node, None);
    let Some(other) = Kubo::start(&[]) else { return };
    let found = probe(&ProbeOptions { gateway: Some(other.gateway.clone()), ..options(&kubo) }).await;
    assert!(results(&found).contains(&("read", CheckResult::Failed)), "another node's gateway: {:#?}", found.checks);
    assert_eq!(found.node, None);
}

#[tokio::test]
async fn refusals_end_with_what_to_do() {
    let secret = json!({"a": {"AuthSecret": "bearer:geheim", "AllowedPaths": ["/api/v0"]}});
    let Some(kubo) = Kubo::start(&[("API.Authorizations", secret)]) else { return };
    let denied = probe(&options(&kubo)).await;
    assert_eq!(results(&denied), [("reach", CheckResult::Ok), ("auth", CheckResult::Failed)]);
    assert!(denied.checks[1].hint.as_ref().unwrap().contains("--token-file"));
    let credential = Credential::Kubo(GrantToken::new("bearer:geheim".to_owned()));
    let let_in = probe(&ProbeOptions { credential, ..options(&kubo) }).await;
    assert!(let_in.node.is_some(), "{:#?}", let_in.checks);

    let expected_id = Some("12D3KooWother".parse().unwrap());
    let credential = Credential::Kubo(GrantToken::new("bearer:geheim".to_owned()));
    let other = probe(&ProbeOptions { expected_id, credential, ..options(&kubo) }).await;
    assert_eq!(results(&other).last(), Some(&("identity", CheckResult::Failed)), "{:#?}", other.checks);

    let options = options(&kubo);
    drop(kubo);
    let gone = probe(&options).await;
    assert_eq!(results(&gone), [("reach", CheckResult::Failed)]);
    assert!(gone.checks[0].hint.is_some());
}
