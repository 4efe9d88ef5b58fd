//! The status page: one file that includes its styles and its script, built for each request.

use base64::prelude::{BASE64_STANDARD, Engine};
use hyper::header::HeaderValue;
use sha2::{Digest, Sha256};

use super::http::Page;
use super::status::Status;

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// The `Content-Type` of the page.
const HTML: &str = "text/html; charset=utf-8";

/// The page that shows `status`.
pub(super) fn of(status: &Status) -> Page {
    // Serialization can't fail: all maps have strings as keys.
    let json = serde_json::to_string(status).unwrap_or_default();
    let html = TEMPLATE
        .replace("/*STYLE*/", STYLE)
        .replace("/*SCRIPT*/", SCRIPT)
        // Last, because the state has text from outside, which may look like one of the placeholders above.
        .replace("/*STATE*/", &in_script(&json));
    Page {
        policy: HeaderValue::from_str(&policy()).ok(),
        ..Page::ok(HTML, html)
    }
}

/// The content security policy: the page may only use its own style and script, identified by their hashes, and
/// request `/status`.
fn policy() -> String {
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        BASE64_STANDARD.encode(Sha256::digest(STYLE)),
        BASE64_STANDARD.encode(Sha256::digest(SCRIPT))
    )
}

/// Equivalent JSON that can neither end a `<script>` element nor begin a comment in one.
fn in_script(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_can_not_leave_its_script() {
        let json = serde_json::to_string("</script><!-- &\u{2028}").unwrap();
        let safe = in_script(&json);
        assert!(!safe.contains(['<', '>', '&', '\u{2028}']), "{safe}");
        let back: String = serde_json::from_str(&safe).unwrap();
        assert_eq!(back, "</script><!-- &\u{2028}");
    }
}
