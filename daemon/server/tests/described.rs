//! Authorisation and description: over every row, so that no new one can be forgotten.

use std::collections::BTreeSet;

use super::Served;
use super::script::TOKEN;
use crate::client::wire::API_PREFIX;
use crate::daemon::routes;

/// The routes that need no token.
const OPEN: [&str; 4] = ["/livez", "/readyz", "/healthz", "/api/v1/openapi.json"];

fn concrete(path: &str) -> String {
    format!("{API_PREFIX}{}", path.replace("{id}", &"a".repeat(32)).replace("{name}", "n"))
}

/// Class: authenticated is not authorised; a route outside the check.
#[tokio::test]
async fn every_route_refuses_a_request_without_a_valid_token() {
    let served = Served::usual().await;
    let long = format!("Authorization: Bearer {}\r\n", "x".repeat(513));
    let twice = format!("Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}\r\n");
    let basic = format!("Authorization: Basic {TOKEN}\r\n");
    let cut = format!("Authorization: Bearer {}\r\n", &TOKEN[..TOKEN.len() - 1]);
    let wrong = ["", "Authorization: Bearer\r\n", "Authorization: Bearer \r\n", "Authorization: Bearer a b\r\n"];
    let in_query = format!("?token={TOKEN}&access_token={TOKEN}");
    for row in routes::table() {
        let path = concrete(row.path);
        for header in wrong.into_iter().chain([long.as_str(), &twice, &basic, &cut, "Authorization: Bearer \u{fc}\r\n"])
        {
            for query in ["", in_query.as_str()] {
                let request =
                    format!("{} {path}{query} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{header}\r\n", row.method);
                let reply = served.raw(request).await;
                assert_eq!(reply.status, 401, "{} {path} {header:?}", row.method);
                assert_eq!(reply.problem(), "not_signed_in");
                assert!(reply.head.contains("www-authenticate: bearer"), "{reply:?}");
            }
        }
    }
    assert_eq!(served.script.take_calls(), Vec::<&str>::new());
}

#[tokio::test]
async fn the_open_routes_need_no_token_and_say_little() {
    let served = Served::usual().await;
    for path in OPEN {
        let reply = served.raw(format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(reply.status, 200, "{path}");
    }
    let secret = crate::api::ApiError::new(crate::api::Code::ReadOnly, "secret reason");
    *served.script.ready.lock().unwrap() = Err(secret);
    for (path, status) in [("/livez", 200), ("/readyz", 503), ("/healthz", 503)] {
        let reply = served.raw(format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(reply.status, status, "{path}");
        assert!(!reply.body.contains("secret"));
    }
}

async fn document(served: &Served) -> serde_json::Value {
    served.raw("GET /api/v1/openapi.json HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.json()
}

#[tokio::test]
async fn the_description_has_every_route_and_no_other() {
    let served = Served::usual().await;
    let document = document(&served).await;
    assert_eq!(document["openapi"], "3.1.0");
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert_eq!(operation["security"], serde_json::json!([{"token": []}]));
            described.insert((
                method.to_uppercase(),
                path.clone(),
                operation["operationId"].as_str().unwrap().to_owned(),
            ));
            // The router has it: it asks for a token, and does not say that there is no such route.
            let path = path.replace("{id}", "x").replace("{name}", "n");
            let method = method.to_uppercase();
            let reply = served.raw(format!("{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).await;
            assert_eq!(reply.status, 401, "{method} {path}");
        }
    }
    let row = |row: &routes::Route| (row.method.to_string(), format!("{API_PREFIX}{}", row.path), row.name.to_owned());
    assert_eq!(described, routes::table().iter().map(row).collect());
}

/// Walks a document and collects every reference.
fn references(value: &serde_json::Value, found: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(|to| to.as_str()).map(str::to_owned));
            fields.values().for_each(|field| references(field, found));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn every_reference_in_the_description_leads_somewhere() {
    let served = Served::usual().await;
    let document = document(&served).await;
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.contains("#/components/schemas/Entry"));
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn the_description_agrees_with_what_is_really_sent() {
    let served = Served::usual().await;
    let document = document(&served).await;
    let schema = |name: &str| document.pointer(&format!("/components/schemas/{name}/properties")).unwrap().clone();
    let cases = [
        ("Entry", serde_json::to_value(super::fixture::entry()).unwrap()),
        ("PutSession", serde_json::to_value(super::fixture::put_session()).unwrap()),
        ("ManifestPage", serde_json::to_value(super::fixture::manifest()).unwrap()),
        ("NodeAdd", serde_json::to_value(super::fixture::node_add()).unwrap()),
        ("HealthReport", serde_json::to_value(super::fixture::health_report()).unwrap()),
        ("Status", serde_json::to_value(super::fixture::status()).unwrap()),
    ];
    for (name, value) in cases {
        let sent: BTreeSet<_> = value.as_object().unwrap().keys().cloned().collect();
        let described: BTreeSet<_> = schema(name).as_object().unwrap().keys().cloned().collect();
        assert_eq!(sent, described, "{name}");
    }
    assert_eq!(document.pointer("/components/schemas/Code/enum").unwrap().as_array().unwrap().len(), 16);
}
