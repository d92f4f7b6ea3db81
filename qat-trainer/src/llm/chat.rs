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
    ///
    /// ```
    /// use qat_trainer::llm::{ChatTemplate, Message};
    /// let source = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}";
    /// // Which roles there may be is the template's business: this one takes any.
    /// let turns = [Message::new("user", "2+2?"), Message::new("assistant", "4")];
    /// let text = ChatTemplate::new(source, "", "").render(&turns)?;
    /// assert_eq!(text, "[user] 2+2? [assistant] 4 ");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
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
    ///
    /// ```
    /// use qat_trainer::llm::{ChatTemplate, Message};
    /// let source = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}";
    /// let template = ChatTemplate::new(source, "<s>", "</s>");
    /// assert_eq!(template.render(&[Message::new("user", "Hi")])?, "<s>Hi</s>");
    /// // A template is not read before a conversation is written.
    /// assert!(ChatTemplate::new("{% for %}", "", "").render(&[]).is_err());
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn new(source: &str, bos: &str, eos: &str) -> Self {
        Self { source: source.into(), bos: bos.into(), eos: eos.into() }
    }

    /// The template.
    ///
    /// ```
    /// use qat_trainer::llm::ChatTemplate;
    /// let source = "{{ '<|im_start|>' + messages[0].role }}";
    /// let template = ChatTemplate::new(source, "", "<|im_end|>");
    /// // It stands there as the model's files have it; most small models write ChatML.
    /// assert!(template.source().contains("<|im_start|>"));
    /// ```
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What it may write at the beginning and the end of a text.
    ///
    /// ```
    /// use qat_trainer::llm::ChatTemplate;
    /// let template = ChatTemplate::new("{{ bos_token }}{{ messages[0].content }}", "<s>", "</s>");
    /// // With its text they are all that a template is.
    /// let (bos, eos) = template.ends();
    /// assert_eq!((bos, eos), ("<s>", "</s>"));
    /// assert_eq!(ChatTemplate::new(template.source(), bos, eos), template);
    /// ```
    #[must_use]
    pub fn ends(&self) -> (&str, &str) {
        (&self.bos, &self.eos)
    }

    /// The text of a conversation, up to where the assistant's next turn begins.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if the template cannot be read, or does not allow such a conversation.
    ///
    /// ```
    /// use qat_trainer::llm::{ChatTemplate, Message};
    /// let chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
    ///     {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    /// let template = ChatTemplate::new(chatml, "", "<|im_end|>");
    /// let text = template.render(&[Message::new("user", "Hi")])?;
    /// assert_eq!(text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    ///
    /// let strict = ChatTemplate::new("{{ raise_exception('roles must alternate') }}", "", "");
    /// assert!(strict.render(&[]).unwrap_err().to_string().contains("roles must alternate"));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
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
