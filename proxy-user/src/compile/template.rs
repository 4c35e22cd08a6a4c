//! Header values with Envoy's substitution commands, read once.
//!
//! A documented subset (see [`TemplatePart`]); an unknown command refuses the value, as
//! Envoy refuses the whole configuration. Source: Envoy, "Custom request/response headers".

use std::sync::Arc;

use crate::snapshot::policy::{HeaderTemplate, TemplatePart};

/// Why a header value is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadTemplate {
    /// A `%` that neither begins a command nor is doubled.
    #[error("a lone % in {0:?}, write %% for a percent sign")]
    LonePercent(String),
    /// Envoy does not know it either, or Mizzen does not honour it.
    #[error(
        "unknown command %{0}%, use REQ, RESP, DOWNSTREAM_REMOTE_ADDRESS, \
         DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT, DOWNSTREAM_LOCAL_ADDRESS, UPSTREAM_HOST, \
         PROTOCOL, RESPONSE_CODE, START_TIME or ROUTE_NAME"
    )]
    UnknownCommand(String),
    /// The header name or the length is missing or malformed.
    #[error("malformed command %{0}%, write for example %REQ(x-name?x-other):10%")]
    Malformed(String),
}

/// Reads `text`.
pub(crate) fn parse_template(text: &str) -> Result<HeaderTemplate, BadTemplate> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('%') {
        literal.push_str(before);
        if let Some(behind) = behind.strip_prefix('%') {
            literal.push('%');
            rest = behind;
            continue;
        }
        let end = command_len(behind).ok_or_else(|| BadTemplate::LonePercent(text.to_owned()))?;
        flush(&mut literal, &mut parts);
        parts.push(parse_command(&behind[..end])?);
        rest = &behind[end + 1..];
    }
    literal.push_str(rest);
    flush(&mut literal, &mut parts);
    Ok(HeaderTemplate(parts))
}

/// A value that is taken as it is, such as a rewritten authority.
pub(crate) fn literal(text: &str) -> HeaderTemplate {
    HeaderTemplate(vec![TemplatePart::Literal(text.into())])
}

fn flush(literal: &mut String, parts: &mut Vec<TemplatePart>) {
    if !literal.is_empty() {
        parts.push(TemplatePart::Literal(std::mem::take(literal).into()));
    }
}

/// Length of the command that begins here, up to its closing `%`; arguments may hold `%`.
fn command_len(text: &str) -> Option<usize> {
    let name_len = text
        .bytes()
        .take_while(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_')
        .count();
    if name_len == 0 {
        return None;
    }
    let after_name = &text[name_len..];
    let arguments_len = match after_name.strip_prefix('(') {
        Some(inside) => inside.find(')')? + 2,
        None => 0,
    };
    let close = after_name[arguments_len..].find('%')?;
    Some(name_len + arguments_len + close)
}

fn parse_command(command: &str) -> Result<TemplatePart, BadTemplate> {
    let malformed = || BadTemplate::Malformed(command.to_owned());
    let name_len = command.find(['(', ':']).unwrap_or(command.len());
    let (name, rest) = command.split_at(name_len);
    if !matches!(name, "REQ" | "RESP") {
        return plain_command(name)
            .filter(|_| rest.is_empty())
            .ok_or_else(|| BadTemplate::UnknownCommand(command.to_owned()));
    }
    let inside = rest.strip_prefix('(').ok_or_else(malformed)?;
    let (arguments, cut) = inside.split_once(')').ok_or_else(malformed)?;
    let max_len_bytes = match cut.strip_prefix(':') {
        Some(number) => Some(number.parse::<usize>().map_err(|_| malformed())?),
        None if cut.is_empty() => None,
        None => return Err(malformed()),
    };
    let (header, alternative) = match arguments.split_once('?') {
        Some((header, alternative)) => (header, Some(alternative)),
        None => (arguments, None),
    };
    let lower = |text: &str| Arc::from(text.trim().to_ascii_lowercase());
    let header: Arc<str> = lower(header);
    let alternative: Option<Arc<str>> = alternative.map(lower);
    if header.is_empty() || alternative.as_ref().is_some_and(|name| name.is_empty()) {
        return Err(malformed());
    }
    Ok(if name == "REQ" {
        TemplatePart::RequestHeader {
            name: header,
            alternative,
            max_len_bytes,
        }
    } else {
        TemplatePart::ResponseHeader {
            name: header,
            alternative,
            max_len_bytes,
        }
    })
}

fn plain_command(name: &str) -> Option<TemplatePart> {
    Some(match name {
        "DOWNSTREAM_REMOTE_ADDRESS" => TemplatePart::DownstreamRemoteAddress,
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => {
            TemplatePart::DownstreamRemoteAddressWithoutPort
        }
        "DOWNSTREAM_LOCAL_ADDRESS" => TemplatePart::DownstreamLocalAddress,
        "UPSTREAM_HOST" => TemplatePart::UpstreamHost,
        "PROTOCOL" => TemplatePart::Protocol,
        "RESPONSE_CODE" => TemplatePart::ResponseCode,
        "START_TIME" => TemplatePart::StartTime,
        "ROUTE_NAME" => TemplatePart::RouteName,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> TemplatePart {
        TemplatePart::Literal(text.into())
    }

    fn request(name: &str, alternative: Option<&str>, max: Option<usize>) -> TemplatePart {
        TemplatePart::RequestHeader {
            name: name.into(),
            alternative: alternative.map(Arc::from),
            max_len_bytes: max,
        }
    }

    #[test]
    fn values_are_split_into_text_and_commands() {
        for (value, expected) in [
            ("plain", vec![text("plain")]),
            ("", vec![]),
            ("100%%", vec![text("100%")]),
            ("%REQ(X-A)%", vec![request("x-a", None, None)]),
            (
                "a %REQ(:PATH?X-B):3% b",
                vec![
                    text("a "),
                    request(":path", Some("x-b"), Some(3)),
                    text(" b"),
                ],
            ),
            (
                "%PROTOCOL%/%START_TIME%",
                vec![TemplatePart::Protocol, text("/"), TemplatePart::StartTime],
            ),
            (
                "%RESP(server)%",
                vec![TemplatePart::ResponseHeader {
                    name: "server".into(),
                    alternative: None,
                    max_len_bytes: None,
                }],
            ),
        ] {
            assert_eq!(
                parse_template(value),
                Ok(HeaderTemplate(expected)),
                "{value}"
            );
        }
    }

    #[test]
    fn what_envoy_refuses_is_refused() {
        for (value, expected) in [
            ("50%", BadTemplate::LonePercent("50%".into())),
            ("%lower%", BadTemplate::LonePercent("%lower%".into())),
            ("%NOPE%", BadTemplate::UnknownCommand("NOPE".into())),
            (
                "%START_TIME(%s)%",
                BadTemplate::UnknownCommand("START_TIME(%s)".into()),
            ),
            ("%REQ%", BadTemplate::Malformed("REQ".into())),
            ("%REQ()%", BadTemplate::Malformed("REQ()".into())),
            ("%REQ(a):b%", BadTemplate::Malformed("REQ(a):b".into())),
        ] {
            assert_eq!(parse_template(value), Err(expected), "{value}");
        }
    }
}
