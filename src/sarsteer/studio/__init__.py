"""``sarsteer studio``: try a defense in a browser. Needs the extra ``studio``; nothing else imports Gradio."""
