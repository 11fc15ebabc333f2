//! The sender of letters, as an operator writes it in `MAIL_FROM`.

/// Cuts `Doorward, Inc. <no-reply@example.com>` into its name and its address. The name is what
/// stands before the last `<`, with or without quotes (RFC 5322, 3.4), and may have commas,
/// parentheses and anything else in it that needs quotes only in the letter. An address alone has no
/// name, nor has one with an old comment, `no-reply@example.com (Doorward)`: that is not understood.
///
/// Whether the address is one is not looked at.
pub fn parts(raw: &str) -> Option<(Option<String>, &str)> {
    let raw = raw.trim();
    let Some(raw) = raw.strip_suffix('>') else { return Some((None, raw)) };
    let (name, address) = raw.rsplit_once('<')?;
    let name = name.trim();
    let name = match name.strip_prefix('"') {
        Some(quoted) => unquoted(quoted)?,
        // Else the last of several senders would be taken for the only one.
        None if name.contains(['<', '>']) => return None,
        None => name.to_owned(),
    };
    Some((Some(name).filter(|name| !name.is_empty()), address.trim()))
}

/// What stands after the opening quote, up to the closing one, which has to be the end.
fn unquoted(quoted: &str) -> Option<String> {
    let (mut name, mut chars) = (String::new(), quoted.chars());
    loop {
        match chars.next()? {
            '\\' => name.push(chars.next()?),
            '"' => break,
            c => name.push(c),
        }
    }
    // `"Acme" Mail <a@b.example>`: two words, of which one has quotes.
    let rest = chars.as_str();
    (!rest.contains(['"', '<', '>'])).then(|| format!("{name}{rest}").trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_needs_no_quotes() {
        for (raw, name) in [
            ("Doorward <a@b.example>", Some("Doorward")),
            ("Doorward, Inc. <a@b.example>", Some("Doorward, Inc.")),
            ("Doorward (Test) <a@b.example>", Some("Doorward (Test)")),
            ("Ann's \"Shop\" <a@b.example>", Some("Ann's \"Shop\"")),
            ("\"Doorward, Inc.\" <a@b.example>", Some("Doorward, Inc.")),
            (r#""The \"Door\" \\ Co." <a@b.example>"#, Some(r#"The "Door" \ Co."#)),
            ("\"Acme\" Mail <a@b.example>", Some("Acme Mail")),
            ("Bücher & Söhne: 門番 🚪 <a@b.example>", Some("Bücher & Söhne: 門番 🚪")),
            ("me@home.example <a@b.example>", Some("me@home.example")),
            ("Doorward<a@b.example>", Some("Doorward")),
            ("\"\" <a@b.example>", None),
            (" <a@b.example> ", None),
            (" a@b.example ", None),
        ] {
            let found = parts(raw).unwrap_or_else(|| panic!("{raw}"));
            assert_eq!(found, (name.map(str::to_owned), "a@b.example"), "{raw}");
        }
    }

    #[test]
    fn what_is_cut_off_or_several_is_no_sender() {
        for raw in [
            "a@b.example>",
            "A <a@b.example>, B <c@d.example>",
            "\"A <a@b.example>",
            "\"A\\\" <a@b.example>",
            "\"A\" \"B\" <a@b.example>",
        ] {
            assert_eq!(parts(raw), None, "{raw}");
        }
    }
}
