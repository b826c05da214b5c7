//! What can go wrong on a Kubo that works, and the command that mends each.

use serde_json::Value;

use super::{Checks, address, size};
use crate::node::http::HttpNode;

/// The metric that exists only while Kubo's block cache is live, whatever its configuration says.
const CACHE_METRIC: &str = "ipfs_bs_cache_boxo_blockstore_cache_total";
/// The most bytes of a page of metrics or variables that are read.
const MAX_PAGE_BYTES: usize = 8 << 20;

/// Adds a check for each risk.
pub(super) async fn find(checks: &mut Checks, rpc: &HttpNode, url: &str, free_bytes: u64) {
    block_cache(checks, rpc).await;
    let config: Value = match rpc.ask_json("config/show").await {
        Ok(config) => config,
        Err(error) => {
            let hint = "let the credential read it: AllowedPaths [\"/api/v0\"]";
            checks.risk("sync", format!("its configuration cannot be read ({})", error.reason), hint);
            return;
        }
    };
    sync(checks, &config["Datastore"]["Spec"]);
    gc(checks, rpc).await;
    storage_max(checks, rpc, free_bytes).await;
    open_rpc(checks, &config, url);
}

async fn block_cache(checks: &mut Checks, rpc: &HttpNode) {
    let hint = "ipfs config --json Datastore.BlockKeyCacheSize 0, then restart the daemon";
    match rpc.page("/debug/metrics/prometheus", MAX_PAGE_BYTES).await {
        Ok(page) if String::from_utf8_lossy(&page).contains(CACHE_METRIC) => {
            let message = "its block cache is live: writing a wrong or lost block again changes nothing";
            checks.risk("block_cache", message, hint);
        }
        Ok(_) => checks.ok("block_cache", "no block cache stands in the way of repair"),
        Err(error) => {
            let message = format!("whether its block cache is live cannot be told ({})", error.reason);
            checks.risk("block_cache", message, hint);
        }
    }
}

fn sync(checks: &mut Checks, spec: &Value) {
    let unsynced = |part: &Value| part["type"] == "flatfs" && part["sync"] != true;
    let mounts = spec["mounts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let parts = std::iter::once(spec).chain(mounts).flat_map(|part| [part, &part["child"]]);
    if parts.into_iter().any(unsynced) {
        let message = "it does not sync blocks to disk: what was written just before a power cut may be lost";
        let hint = "set \"sync\": true for the flatfs mount in both Datastore.Spec (`ipfs config edit`) and restart; \
                    slower, but durable";
        checks.risk("sync", message, hint);
    } else {
        checks.ok("sync", "blocks are synced to disk");
    }
}

async fn gc(checks: &mut Checks, rpc: &HttpNode) {
    let page = rpc.page("/debug/vars", MAX_PAGE_BYTES).await.ok();
    let vars: Option<Value> = page.and_then(|page| serde_json::from_slice(&page).ok());
    let command = vars.as_ref().and_then(|vars| vars["cmdline"].as_array());
    let collects = |words: &Vec<Value>| {
        words.iter().filter_map(Value::as_str).any(|word| word == "--enable-gc" || word == "--enable-gc=true")
    };
    match command.map(collects) {
        Some(true) => checks.ok("gc", "it collects garbage by itself"),
        Some(false) => {
            let message = "it collects no garbage by itself: what is removed keeps its room until then";
            let hint = "run `ipfs repo gc` now and then, start it with `ipfs daemon --enable-gc`, or add it with --gc \
                        bytenode if it serves this pool alone";
            checks.risk("gc", message, hint);
        }
        None => checks.risk("gc", "whether it collects garbage cannot be told", "ipfs repo gc"),
    }
}

async fn storage_max(checks: &mut Checks, rpc: &HttpNode, free_bytes: u64) {
    let repo: Value = rpc.ask_json("repo/stat?size-only=true").await.unwrap_or_default();
    let sys: Value = rpc.ask_json("diag/sys").await.unwrap_or_default();
    let numbers = (repo["StorageMax"].as_u64(), repo["RepoSize"].as_u64(), sys["diskinfo"]["free_space"].as_u64());
    let (Some(max), Some(used), Some(disk)) = numbers else {
        checks.risk("storage_max", "its limit or its disk cannot be read", "ipfs config Datastore.StorageMax");
        return;
    };
    let possible = used.saturating_add(disk);
    if max < possible {
        let message = format!("its StorageMax leaves {}, its disk has {} free", size(free_bytes), size(disk));
        // A tenth stays for the rest of the machine.
        let gigabytes = (possible - possible / 10) / 1_000_000_000;
        checks.risk("storage_max", message, format!("ipfs config Datastore.StorageMax {gigabytes}GB"));
    } else {
        checks.ok("storage_max", "its limit leaves the whole disk");
    }
}

fn open_rpc(checks: &mut Checks, config: &Value, url: &str) {
    let authorized = config["API"]["Authorizations"].as_object().is_some_and(|users| !users.is_empty());
    let listens: Vec<&str> = match &config["Addresses"]["API"] {
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    let any = |text: &str| text.starts_with("/ip4/0.0.0.0/") || text.starts_with("/ip6/::/");
    let loopback = |text: &&str| {
        text.starts_with("/unix/")
            || (!any(text) && address::parse(text).is_ok_and(|url| crate::machine::is_loopback(&url)))
    };
    let open = !listens.iter().all(loopback) || !crate::machine::is_loopback(url);
    if open && !authorized {
        let hint = "ipfs config --json API.Authorizations \
                    '{\"bytenode\":{\"AuthSecret\":\"bearer:TOKEN\",\"AllowedPaths\":[\"/api/v0\"]}}', restart, and \
                    give the token with --token-file; or `ipfs config Addresses.API /ip4/127.0.0.1/tcp/5001`";
        checks.risk("open_rpc", "whoever reaches its RPC port can delete everything on it", hint);
    } else {
        checks.ok("open_rpc", if authorized { "its RPC port asks for credentials" } else { "its RPC port is local" });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admin::CheckResult;

    fn result(find: impl FnOnce(&mut Checks)) -> CheckResult {
        let mut checks = Checks::default();
        find(&mut checks);
        assert_eq!(checks.0.len(), 1);
        checks.0[0].result
    }

    #[test]
    fn stores_that_sync_are_told_from_those_that_do_not() {
        let flatfs = |sync: bool| json!({"type": "mount", "mounts": [{"type": "flatfs", "sync": sync}]});
        let measured = json!({"type": "measure", "child": {"type": "flatfs", "sync": false}});
        assert_eq!(result(|checks| sync(checks, &flatfs(false))), CheckResult::Risk);
        assert_eq!(result(|checks| sync(checks, &flatfs(true))), CheckResult::Ok);
        assert_eq!(result(|checks| sync(checks, &measured)), CheckResult::Risk);
        assert_eq!(result(|checks| sync(checks, &json!({"type": "pebbleds"}))), CheckResult::Ok);
    }

    #[test]
    fn an_open_port_without_credentials_is_a_risk() {
        let config = |api: &str| json!({"Addresses": {"API": api}});
        let open = |config: Value, url: &str| result(|checks| open_rpc(checks, &config, url));
        assert_eq!(open(config("/ip4/127.0.0.1/tcp/5001"), "http://127.0.0.1:5001"), CheckResult::Ok);
        assert_eq!(open(config("/ip4/0.0.0.0/tcp/5001"), "http://127.0.0.1:5001"), CheckResult::Risk);
        assert_eq!(open(config("/ip4/127.0.0.1/tcp/5001"), "http://nas:5001"), CheckResult::Risk);
        let mut guarded = config("/ip4/0.0.0.0/tcp/5001");
        guarded["API"] = json!({"Authorizations": {"a": {}}});
        assert_eq!(open(guarded, "http://nas:5001"), CheckResult::Ok);
    }
}
