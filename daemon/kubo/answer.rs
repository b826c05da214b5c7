//! The forms in which Kubo answers, and the built-in node after it: JSON, JSON errors with 500, plain refusals.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::multipart::NotOnePart;
use crate::id::PackRoot;
use crate::node::builtin::identity::IdentityError;
use crate::node::builtin::store::StoreError;

/// Why a request is not answered as asked.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// No or not the right grant: 403, plain text.
    Denied(String),
    /// The request is not what it must be: 400, plain text.
    Bad(String),
    /// Too many tries: 429, plain text.
    TooOften,
    /// The client was silent for too long in the middle of its body: 408, plain text.
    Stalled,
    /// It has no room for the request now: 503, plain text.
    Overloaded,
    /// The node behind cannot be reached: 502, plain text.
    Unreachable(String),
    /// An error as Kubo tells it: 500, JSON.
    Failed(String),
}

impl Refusal {
    pub(crate) fn answer(self) -> Response<Body> {
        let (status, message) = match self {
            Self::Denied(why) => (StatusCode::FORBIDDEN, format!("ByteNode Access Denied: {why}")),
            Self::Bad(why) => (StatusCode::BAD_REQUEST, why),
            Self::TooOften => (StatusCode::TOO_MANY_REQUESTS, "too many tries; wait a minute".to_owned()),
            Self::Stalled => (StatusCode::REQUEST_TIMEOUT, "no byte of the body came in time".to_owned()),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "node is busy; try again".to_owned()),
            Self::Unreachable(why) => (StatusCode::BAD_GATEWAY, why),
            Self::Failed(message) => {
                let text = json!({"Message": message, "Code": 0, "Type": "error"});
                return with_status(json_answer(&text), StatusCode::INTERNAL_SERVER_ERROR);
            }
        };
        plain(status, message)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        if let StoreError::Io { source, .. } = &error {
            tracing::error!(%source, "{error}");
            return Self::Failed(format!("{error}: {source}"));
        }
        if matches!(error, StoreError::Corrupt(_)) {
            tracing::error!("{error}");
        }
        Self::Failed(error.to_string())
    }
}

impl From<IdentityError> for Refusal {
    fn from(error: IdentityError) -> Self {
        match &error {
            IdentityError::State { source, .. } => {
                tracing::error!(%source, "{error}");
                Self::Failed(error.to_string())
            }
            IdentityError::Damaged { .. } => Self::Failed(error.to_string()),
            IdentityError::Invalid(_) => Self::Bad(error.to_string()),
            IdentityError::Code
            | IdentityError::Joined
            | IdentityError::NotJoined
            | IdentityError::Grant(_)
            | IdentityError::Superseded(_) => Self::Denied(error.to_string()),
        }
    }
}

impl From<NotOnePart> for Refusal {
    fn from(error: NotOnePart) -> Self {
        Self::Bad(error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> axum::response::Response {
        self.answer()
    }
}

/// What `dag/import` answers for a root: a receipt where there is one, which says more than the statistics (blocks and
/// their bytes) that stand for it otherwise.
pub(crate) fn import_answer(root: PackRoot, receipt: Option<&str>, stats: Option<(u64, u64)>) -> String {
    let mut text = format!("{}\n", json!({"Root": {"Cid": {"/": root}, "PinErrorMsg": ""}}));
    if let Some(receipt) = receipt {
        text.push_str(&format!("{}\n", json!({"Receipt": receipt})));
    }
    if let Some((blocks, bytes)) = stats {
        text.push_str(&format!("{}\n", json!({"Stats": {"BlockCount": blocks, "BlockBytesCount": bytes}})));
    }
    text
}

/// A plain text answer.
pub(crate) fn plain(status: StatusCode, text: String) -> Response<Body> {
    typed(status, "text/plain; charset=utf-8", Body::from(text + "\n"))
}

/// One JSON value.
pub(crate) fn json_answer(value: &Value) -> Response<Body> {
    json_lines(Body::from(format!("{value}\n")))
}

/// JSON values, one a line.
pub(crate) fn json_lines(body: Body) -> Response<Body> {
    typed(StatusCode::OK, "application/json", body)
}

/// An answer of this kind.
pub(crate) fn typed(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn with_status(mut response: Response<Body>, status: StatusCode) -> Response<Body> {
    *response.status_mut() = status;
    response
}
