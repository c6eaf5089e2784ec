//! JSON as people write it: with comments, and commas after the last member.

/// Reads it; the error is the parser's.
pub(super) fn relaxed(text: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str(&strict(text)).map_err(|e| e.to_string())
}

/// The same as strict JSON: what stands in strings is left alone, and lines keep their numbers.
fn strict(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    let mut in_string = false;
    while let Some(c) = rest.next() {
        match (in_string, c, rest.peek()) {
            (true, '\\', _) => {
                out.push(c);
                out.extend(rest.next());
            }
            (_, '"', _) => {
                in_string = !in_string;
                out.push(c);
            }
            (false, '/', Some('/')) => while rest.next_if(|c| *c != '\n').is_some() {},
            (false, '/', Some('*')) => {
                let mut before = ' ';
                for c in rest.by_ref() {
                    if c == '\n' {
                        out.push(c);
                    }
                    if before == '*' && c == '/' {
                        break;
                    }
                    before = c;
                }
            }
            (false, '}' | ']', _) => {
                let kept = out.trim_end().len();
                if out[..kept].ends_with(',') {
                    out.remove(kept - 1);
                }
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn comments_and_last_commas_go_and_strings_stay() {
        let text = "{ // one\n \"url\": \"https://x//y\", /* two\n */ \"a\": [1, 2,],\n \"b\": \"\\\"// no\",\n}";
        let read = super::relaxed(text).expect("JSON");
        assert_eq!(read, serde_json::json!({ "url": "https://x//y", "a": [1, 2], "b": "\"// no" }));
        assert!(super::relaxed("{ \"a\": }").is_err());
    }
}
