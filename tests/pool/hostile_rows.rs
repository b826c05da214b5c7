//! A catalog whose rows are damaged: what it holds comes from outside too. An error that names the row, no panic.

use bytenode::admin::{Admin, HealthRequest};
use bytenode::api::ApiResult;

use crate::support::pool::{MIB, Pool, Setup, always, bytes};

/// Everything that reads rows, and what it said.
async fn use_all(pool: &Pool) -> Vec<String> {
    let (user, session) = (&pool.admin, &pool.admin.session);
    let list = bytenode::api::ListRequest { path: "bn:/".parse().unwrap(), recursive: true, cursor: None, limit: 100 };
    let path = "bn:/d/a".parse().unwrap();
    let mut said = Vec::new();
    let mut note = |what: &str, answer: ApiResult<()>| {
        if let Err(error) = answer {
            said.push(format!("{what}: {error}"));
        }
    };
    note("list", bytenode::api::Api::list(&**session, &list).await.map(drop));
    note("stat", user.stat("bn:/d/a").await.map(drop));
    note("chunks", session.chunk_rows(&path, None, 100).await.map(drop));
    note("get", user.try_get("bn:/d/a").await.map(drop));
    note("health", session.health(&HealthRequest { dry_run: true, ..HealthRequest::default() }).await.map(drop));
    note("repair", session.health(&HealthRequest::default()).await.map(drop));
    note("status", session.status().await.map(drop));
    note("put", user.try_put("bn:/d/b", &bytes(1, 2 * MIB), &always()).await.map(drop));
    note("gc", session.gc(true, true).await.map(drop));
    note("scrub", session.scrub(true, false).await.map(drop));
    note("gc", session.gc(true, false).await.map(drop));
    said
}

#[tokio::test(start_paused = true)]
async fn a_damaged_row_is_named() {
    for (sql, named, by) in [
        ("UPDATE chunk SET digest = x'00' WHERE id = 1", "chunk 1 has a digest of 1 bytes", "get health"),
        ("UPDATE chunk SET bytes = -1 WHERE id = 1", "chunk 1 has an impossible length", "get health"),
        ("UPDATE chunk SET bytes = 9223372036854775807", "chunk 1 has an impossible length", "get health"),
        ("UPDATE pack SET root = x'' WHERE id = 1", "pack 1 has a digest of 0 bytes", "get health"),
        ("UPDATE manifest SET part = 9", "version 1 has a chunk of an unknown kind (9)", "get chunks"),
        ("UPDATE version SET size = -5", "version 1 has size below 0", "list stat get"),
        ("UPDATE version SET sha256 = zeroblob(33)", "version 1 has a digest of 33 bytes", "list stat get"),
        ("UPDATE version SET chunk_size = 0", "version 1 has an impossible chunk size", "get"),
        ("UPDATE version SET copies_min = 1 << 40", "version 1 has Integer", "list stat get"),
        ("UPDATE entry SET name = 'x/y' WHERE name = 'd'", "\"x/y\" in bn:/ is no name", "list"),
    ] {
        let pool = Pool::new(Setup::builtin(3)).await;
        pool.admin.put("bn:/d/a", &bytes(1, 2 * MIB)).await;
        let change = move |c: &rusqlite::Connection| Ok(c.execute(sql, [])?);
        assert!(pool.coordinator.catalog().write(change).await.unwrap() > 0);
        let said = use_all(&pool).await;
        for by in by.split(' ') {
            let right = |one: &String| one.starts_with(by) && one.contains("is damaged") && one.contains(named);
            assert!(said.iter().any(right), "{sql}, {by}: {said:#?}");
        }
    }
}

/// What is wrong there shows, at the latest, when the coordinator starts again.
#[tokio::test(start_paused = true)]
async fn a_damaged_node_or_pool_is_named() {
    for (sql, named) in [
        ("UPDATE node SET kind = 'barrel' WHERE id = 2", "node 2 has \"barrel\""),
        ("UPDATE node SET gc = ''", "node 1 has \"\""),
        ("UPDATE node SET access = 'x'", "node 1 has \"x\""),
        ("UPDATE node SET ident = '' WHERE id = 1", "node 1 has an impossible identity"),
        ("UPDATE pool SET pool = x'00'", "the pool id has another length"),
    ] {
        let pool = Pool::new(Setup::builtin(3)).await;
        let found = pool
            .coordinator
            .catalog()
            .write(move |c| {
                c.execute(sql, [])?;
                let nodes = bytenode::catalog::nodes::all(c).map(drop);
                Ok(nodes.and_then(|()| bytenode::catalog::nodes::pool(c).map(drop)))
            })
            .await
            .unwrap();
        assert!(found.as_ref().is_err_and(|error| error.to_string().contains(named)), "{sql}: {found:?}");
    }
}
