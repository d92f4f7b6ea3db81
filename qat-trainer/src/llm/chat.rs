//! Turns of a conversation as the text that an instruction-tuned model was trained on, by the Jinja template that comes
//! with it (for most small models that is ChatML: `<|im_start|>role\ntext<|im_end|>`).

use crate::error::{Error, ErrorKind, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind as JinjaError, context};

/// A turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A turn of this role.
    #[must_use]
    pub fn new(role: &str, content: &str) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A model's chat template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatTemplate {
    source: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// The template and what it may write at the beginning and the end of a text.
    #[must_use]
    pub fn new(source: &str, bos: &str, eos: &str) -> Self {
        Self { source: source.into(), bos: bos.into(), eos: eos.into() }
    }

    /// The template.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What it may write at the beginning and the end of a text.
    #[must_use]
    pub fn ends(&self) -> (&str, &str) {
        (&self.bos, &self.eos)
    }

    /// The text of a conversation, up to where the assistant's next turn begins.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if the template cannot be read, or does not allow such a conversation.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let mut jinja = Environment::new();
        // As Hugging Face's `transformers` sets it up.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        jinja.set_syntax(syntax.map_err(|e| failed(&e))?);
        jinja.add_function("raise_exception", |text: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(JinjaError::InvalidOperation, text))
        });
        let turn = |m: &Message| context! { role => m.role.as_str(), content => m.content.as_str() };
        let context = context! {
            messages => messages.iter().map(turn).collect::<Vec<_>>(),
            add_generation_prompt => true,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
        };
        jinja.render_str(&self.source, context).map_err(|e| failed(&e))
    }
}

fn failed(e: &minijinja::Error) -> Error {
    Error::new(ErrorKind::Model, format!("the chat template fails: {e}"))
        .remedy("use `generate` instead of `chat`, or another model")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
        {{ '<|im_start|>system\nBe brief<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + \
        message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}\
        {{ '<|im_start|>assistant\n' }}{% endif %}";

    #[test]
    fn chatml_as_the_models_write_it() {
        let template = ChatTemplate::new(CHATML, "", "");
        let text = template.render(&[Message::new("user", "Hi {{ 1 }}")]).unwrap();
        let user = "<|im_start|>user\nHi {{ 1 }}<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(text, format!("<|im_start|>system\nBe brief<|im_end|>\n{user}"));
        let own = [Message::new("system", "Be kind"), Message::new("user", "Hi {{ 1 }}")];
        assert_eq!(template.render(&own).unwrap(), format!("<|im_start|>system\nBe kind<|im_end|>\n{user}"));
    }

    #[test]
    fn templates_that_fail_say_why() {
        let render = |source: &str| ChatTemplate::new(source, "<s>", "</s>").render(&[]);
        assert_eq!(render("{{ bos_token }}x{{ eos_token }}").unwrap(), "<s>x</s>");
        for (source, expected) in [
            ("{% for %}", "the chat template fails"),
            ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ] {
            assert!(render(source).unwrap_err().to_string().contains(expected));
        }
    }
}
