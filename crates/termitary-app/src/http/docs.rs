//! The OpenAPI document: collected from the routes, and completed here with the parts
//! that all routes share.

use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, OpenApi, Ref, RefOr, Required, ResponseBuilder,
};
use utoipa_swagger_ui::{Config, SwaggerUi};

/// The path of the page that documents the API.
pub(crate) const PATH: &str = "/docs";

/// Routes of the API that need no session.
const OPEN: &[&str] = &[
    "/api/v1/auth/register",
    "/api/v1/auth/login",
    "/api/v1/auth/email/confirm",
    "/api/v1/auth/password/forgot",
    "/api/v1/auth/password/reset",
];

/// Adds the parts that the macros cannot add for all routes at once.
pub(crate) fn complete(mut document: OpenApi) -> OpenApi {
    document.info = InfoBuilder::new()
        .title("Termitary")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "A team to-do service. Every error is `application/problem+json` (RFC 9457); every list is paged by \
             cursor; every POST takes an `Idempotency-Key`.",
        ))
        .build();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("The `token` of a login."))
        .build();
    let components = document
        .components
        .take()
        .unwrap_or_else(|| ComponentsBuilder::new().build());
    document.components = Some(
        ComponentsBuilder::from(components)
            .security_scheme("session", SecurityScheme::Http(bearer))
            .build(),
    );
    for (path, item) in &mut document.paths.paths {
        let in_api = path.starts_with("/api/");
        let operations = [
            (&mut item.get, false),
            (&mut item.post, true),
            (&mut item.patch, false),
            (&mut item.delete, false),
        ];
        for (operation, is_post) in operations {
            let Some(operation) = operation else { continue };
            if in_api {
                complete_operation(operation, is_post, !OPEN.contains(&path.as_str()));
            }
        }
    }
    document
}

fn complete_operation(operation: &mut Operation, is_post: bool, needs_session: bool) {
    if needs_session {
        operation.security = Some(vec![SecurityRequirement::new(
            "session",
            Vec::<String>::new(),
        )]);
        add_problem(operation, "401", "No session, or one that has ended");
    }
    if is_post {
        let key = ParameterBuilder::new()
            .name("Idempotency-Key")
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(
                "A key of your own, such as a UUID. The same request sent again with it within a day gets the same \
                 response and is not repeated.",
            ))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String).max_length(Some(255))))
            .build();
        operation
            .parameters
            .get_or_insert_default()
            .push(RefOr::T(key));
    }
    if operation.request_body.is_some() {
        add_problem(operation, "400", "The body is not JSON");
        add_problem(operation, "408", "The body did not arrive in time");
        add_problem(operation, "413", "The body is too large");
        add_problem(operation, "415", "The body is of another media type");
    }
    let takes_parameters = operation.parameters.iter().flatten().any(
        |parameter| matches!(parameter, RefOr::T(parameter) if parameter.parameter_in != ParameterIn::Path),
    );
    if operation.request_body.is_some() || takes_parameters {
        add_problem(
            operation,
            "422",
            "A field or parameter is invalid; `errors` names each",
        );
    }
    add_problem(
        operation,
        "503",
        "Not available now; `Retry-After` gives the time to wait",
    );
}

fn add_problem(operation: &mut Operation, status: &str, description: &str) {
    let retry = HeaderBuilder::new()
        .description(Some("Seconds to wait"))
        .build();
    let mut response = ResponseBuilder::new().description(description).content(
        super::problem::PROBLEM_JSON,
        ContentBuilder::new()
            .schema(Some(RefOr::Ref(Ref::from_schema_name("Problem"))))
            .build(),
    );
    if status == "503" {
        response = response.header("Retry-After", retry);
    }
    operation
        .responses
        .responses
        .entry(status.to_owned())
        .or_insert_with(|| response.build().into());
}

/// The page at `/docs`: bundled, and without calls to other servers.
pub(crate) fn page() -> SwaggerUi {
    let config = Config::from("/openapi.json")
        .validator_url("none")
        .try_it_out_enabled(true)
        .persist_authorization(false);
    SwaggerUi::new(PATH).config(config)
}
