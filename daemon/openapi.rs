//! The OpenAPI 3.1 description, made from the route table and the wire types themselves: a route cannot be missing, nor
//! described with other types than it takes and gives.

use std::borrow::Cow;

use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{OperationBuilder, Paths};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{
    ArrayBuilder, ComponentsBuilder, KnownFormat, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{HttpMethod, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required};
use utoipa::{PartialSchema, ToSchema};

use super::routes::Route;
use crate::api::{ApiError, Blob, OpenFile, Page, Sha256};
use crate::client::wire::{API_PREFIX, PROBLEM_TYPE, Problem};
use crate::id::{ChunkId, NodeId, PackId, PackRoot, PoolId, UploadId};
use crate::node::GrantToken;
use crate::path::RemotePath;
use crate::seal::Key;

/// The name of the only security scheme.
const SCHEME: &str = "token";

/// Named schemas.
pub(crate) type Schemas = Vec<(String, RefOr<Schema>)>;

/// How an open file, or why there is none, stands in JSON: what serde makes of a `Result`.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) enum OpenedFile {
    /// It is open.
    Ok(OpenFile),
    /// It is not.
    Err(ApiError),
}

/// Adds a type and all that it is made of, and gives the reference to it.
pub(crate) fn reference<T: ToSchema>(schemas: &mut Schemas) -> Ref {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
    Ref::from_schema_name(T::name())
}

/// Describes a JSON body.
pub(crate) fn json_body<T: ToSchema>(operation: OperationBuilder, schemas: &mut Schemas) -> OperationBuilder {
    let content = ContentBuilder::new().schema(Some(reference::<T>(schemas))).build();
    let body = RequestBodyBuilder::new().content("application/json", content).required(Some(Required::True));
    operation.request_body(Some(body.build()))
}

/// Describes the answer of success.
pub(crate) fn json_answer<T: ToSchema>(
    operation: OperationBuilder,
    status: u16,
    schemas: &mut Schemas,
) -> OperationBuilder {
    let content = ContentBuilder::new().schema(Some(reference::<T>(schemas))).build();
    let response = ResponseBuilder::new().description("Success").content("application/json", content);
    operation.response(status.to_string(), response.build())
}

/// The description of these routes.
pub(crate) fn document(routes: &[Route]) -> OpenApi {
    let mut schemas = Schemas::new();
    let mut paths = Paths::new();
    let problem = ContentBuilder::new().schema(Some(reference::<Problem>(&mut schemas))).build();
    for route in routes {
        let refused = ResponseBuilder::new().description("A problem").content(PROBLEM_TYPE, problem.clone());
        let operation = OperationBuilder::new()
            .operation_id(Some(route.name))
            .summary(Some(route.summary))
            .security(SecurityRequirement::new(SCHEME, Vec::<String>::new()));
        let operation = route.describe(operation, &mut schemas).response("default", refused.build());
        paths.add_path_operation(format!("{API_PREFIX}{}", route.path), vec![method_of(route)], operation);
    }
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("bnt_<id>_<secret>")
        .description(Some("A token made by `bytenode up`, `bytenode login` or `POST /api/v1/tokens`."));
    let components = ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .security_scheme(SCHEME, SecurityScheme::Http(scheme.build()))
        .build();
    let info = InfoBuilder::new().title("ByteNode coordinator").version(env!("CARGO_PKG_VERSION")).description(Some(
        "The interface of a ByteNode coordinator. Errors are problems (RFC 9457) whose `code` decides.",
    ));
    OpenApiBuilder::new().info(info.build()).paths(paths).components(Some(components)).build()
}

fn method_of(route: &Route) -> HttpMethod {
    match route.method.as_str() {
        "POST" => HttpMethod::Post,
        "DELETE" => HttpMethod::Delete,
        "PATCH" => HttpMethod::Patch,
        _ => HttpMethod::Get,
    }
}

// By hand, because the derived form does not register what the page holds.
impl<T: ToSchema> PartialSchema for Page<T> {
    fn schema() -> RefOr<Schema> {
        let cursor = ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
            .description(Some("What to ask with for the next page; nothing on the last."));
        ObjectBuilder::new()
            .property("items", ArrayBuilder::new().items(Ref::from_schema_name(T::name())))
            .property("next_cursor", cursor)
            .required("items")
            .required("next_cursor")
            .into()
    }
}

impl<T: ToSchema> ToSchema for Page<T> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(format!("{}Page", T::name()))
    }

    fn schemas(schemas: &mut Schemas) {
        reference::<T>(schemas);
    }
}

fn text(description: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).description(Some(description))
}

macro_rules! schema {
    ($type:ty, $schema:expr) => {
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                $schema.into()
            }
        }
        impl ToSchema for $type {}
    };
}

schema!(ChunkId, text("A chunk's CID: CIDv1, raw, sha2-256 (`bafkrei…`)."));
schema!(PackRoot, text("A pack's CID: CIDv1, dag-pb, sha2-256 (`bafybei…`)."));
schema!(PoolId, text("A pool: 32 lower-case hex digits.").pattern(Some("^[0-9a-f]{32}$")));
schema!(UploadId, text("A put or read, and its lease: 32 lower-case hex digits.").pattern(Some("^[0-9a-f]{32}$")));
schema!(NodeId, text("A node's own identity.").pattern(Some("^[A-Za-z0-9_-]{1,128}$")));
schema!(Sha256, text("A SHA-256 in lower-case hex.").pattern(Some("^[0-9a-f]{64}$")));
schema!(RemotePath, text("A path as one can type it: `bn:/dir/file`, literal UTF-8.").max_length(Some(4099)));
schema!(GrantToken, text("A secret: never log it."));
schema!(Blob, text("Bytes in base64.").format(Some(SchemaFormat::KnownFormat(KnownFormat::Byte))));
schema!(Key, text("A secret key of 32 bytes in base64: never log it."));
schema!(
    PackId,
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(0))
        .description(Some("A pack's number, never used twice in a pool."))
);
