//! What the logs hold: requests and routes, nothing of people's.

use std::io;
use std::sync::{Arc, Mutex};

use super::Served;
use super::script::TOKEN;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Class: secrets in debug logs.
#[tokio::test]
async fn logs_name_requests_and_routes_but_no_token_path_or_body() {
    let log = Log::default();
    // For the whole process, since with a subscriber of one thread whether an event is wanted at all may be decided, for
    // good, on another; but only this thread's, which is where all of this test runs, are looked at.
    let (writer, thread) = (log.clone(), std::thread::current().id());
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || if std::thread::current().id() == thread { writer.clone() } else { Log::default() })
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let served = Served::usual().await;
    served.request("GET /api/v1/files/stat?path=bn:/private-path", "").await;
    served.request("GET /api/v1/files/stat?path=private-path", "").await;
    served.request("GET /api/v1/private-path", "").await;
    served.request("POST /api/v1/tokens", "{\"private-body\":1}").await;
    let wrong =
        "GET /api/v1/status HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer private-token\r\n\r\n";
    served.raw(wrong).await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("/files/stat") && text.contains("answered") && text.contains("not_signed_in"), "{text}");
    assert!(!text.contains("private-") && !text.contains(TOKEN), "{text}");
}
