"""Ready programs that ask a model: curl, Python with the official package, Node without any. Knows no model.

The key is read from OPENAI_API_KEY; everything else stands in the program.
"""

import json
import shlex

_CURL = """curl --fail-with-body --silent --show-error {url}/chat/completions \\
  -H "Authorization: Bearer $OPENAI_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d {body}
"""
_PYTHON = """from openai import OpenAI  # pip install openai; the key is read from OPENAI_API_KEY

client = OpenAI(base_url={url})
stream = client.chat.completions.create(
    model={model},
    messages=[{{"role": "user", "content": "Hello"}}],
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
"""
_NODE = """// node 18 or newer; the key is read from OPENAI_API_KEY
(async () => {{
  const response = await fetch({url} + "/chat/completions", {{
    method: "POST",
    headers: {{ Authorization: `Bearer ${{process.env.OPENAI_API_KEY}}`, "Content-Type": "application/json" }},
    body: JSON.stringify({{ model: {model}, messages: [{{ role: "user", content: "Hello" }}] }}),
  }});
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error.message);
  console.log(answer.choices[0].message.content);
}})();
"""


def snippets(url: str, model: str) -> dict[str, str]:
    """Return language → program.

    Args:
        url: OpenAI-compatible root, ending in /v1.
        model: its public name.
    """
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]}, ensure_ascii=False)
    quoted = {"url": json.dumps(url), "model": json.dumps(model, ensure_ascii=False)}
    return {
        "curl": _CURL.format(url=shlex.quote(url), body=shlex.quote(body)),
        "python": _PYTHON.format(**quoted),
        "node": _NODE.format(**quoted),
    }
