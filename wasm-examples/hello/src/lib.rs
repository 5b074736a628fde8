//! Answers each HTTP request with the pod's name and the path that was asked for.

use web::{Request, Response};

web::serve!(hello);

#[expect(clippy::needless_pass_by_value, reason = "what `serve!` calls")]
fn hello(request: Request) -> Response {
    Response::text(
        200,
        format!(
            "hello from {}\n{} {}\n",
            web::hostname(),
            request.method,
            request.path
        ),
    )
}
