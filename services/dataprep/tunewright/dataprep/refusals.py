"""Finds answers by which an assistant refuses: "As an AI language model, I cannot …", in English and in Chinese.

Training on them teaches a model to refuse. An apology of a service ("I'm sorry, I can't find your order") is none, nor
is an answer that only says that it is an AI. Knows nothing of rows.
"""

# ruff: noqa: E501 - tables and patterns, and Chinese characters, which count twice

import re

_HEAD_CHARS = 600
_WHOLE_CHARS = 400
"""An answer that goes on for longer than this after "I'm sorry, but I can't" has more to say than that."""

_NOT_EN = r"(?:cannot|can(?:'|’)?t\b|can not|unable|not (?:able|capable|programmed)|won(?:'|’)t|(?:don(?:'|’)t|do not) (?:have|possess|feel|experience))"
_AI_EN = (
    r"(?:(?:digital )?ai(?=[ .,-])|a\.i\.|artificial intelligence|(?:large |text-based )?language model|chatbot"
    r"|computer program|(?:digital|virtual) assistant|machine learning model)"
)
_WHAT = r"(?: language)?(?: model| assistant| system| program| chatbot)?"
_DO = (
    r"(?:assist|help|provide|fulfil+|comply|answer|create|generate|write|engage|discuss|support|complete|access|browse"
    r"|offer|give|share|respond|participate|continue|do that|do this|recommend|advise|perform|confirm|carry out)"
)
_SELF = re.compile(
    rf"(?<![a-z0-9])(?:as an? {_AI_EN}{_WHAT}(?:,|;| i\b| (?:developed|created|trained|designed|made|built)\b)"
    rf"|i(?:'|’| a)m (?:just |only |merely |simply )?an? {_AI_EN}{_WHAT}\b)[^\n]{{0,200}}?{_NOT_EN}"
    r"|(?<![a-z0-9])my programming (?:prevents|prohibits|forbids|does(?:n['’]t| not) allow)"
    r"|(?<![a-z0-9])i(?:['’]| a)m (?:not )?programmed (?:to|not to)\b"
    r"|(?<![a-z0-9])i (?:do not|don['’]t) have (?:real-time|access to (?:real-time|the internet|current|live)\b)"
    r"|作[为為](?:一[个個名款种種])?(?:[^\n。，,！？]{0,16})(?:ai(?=[助语語模系机機程，, ])|人工智能|语言模型|語言模型|智能助手|聊天机器人|大模型)"
    r"[^\n。！？]{0,80}(?:无法|無法|不能|没有|沒有|不具备|不具備|不会|不會|不可以)"
    r"|我(?:只)?是(?:一[个個名款种種])?(?:[^\n。，,！？]{0,16})(?:ai(?=[助语語模系机機程，, ])|人工智能|语言模型|語言模型|智能助手|聊天机器人|大模型)"
    r"[^\n！？]{0,60}(?:无法|無法|不能|没有|沒有)",
    re.IGNORECASE,
)
_SORRY = re.compile(
    rf"\W*(?:(?:i(?:'|’| a)m )?(?:\w+ )?sorry|(?:i |my )?apologi[sz]e?s?|unfortunately)\b[^\n.!?]{{0,60}}?\bi(?:'|’)?(?: a)?m? ?"
    rf"(?:{_NOT_EN})(?: to)? (?:\w+ )?{_DO}\b"
    rf"|\W*i(?: can(?:no|'|’)t| can not| won(?:'|’)t|(?:'|’| a)m (?:unable|not able|not capable))(?: to| of)? {_DO}(?:ing)?\b[^\n.!?]{{0,40}}\b(?:that|this|your|you|such|any|request)\b"
    r"|\W*(?:很|非常|十分|真的)?(?:抱歉|对不起|對不起|遗憾|遺憾|不好意思)[，,。！!]?\s*[^\n。！？]{0,30}?(?:无法|無法|不能)(?:够|夠)?"
    r"(?:直接|为您|為您|给您|向您)?(?:提供|回答|帮助|幫助|满足|滿足|协助|協助|完成|生成|执行|處理|处理|继续|回应|访问|浏览|创作|编写|给出)",
    re.IGNORECASE,
)
_MOST_AFTER = 250


def is_refusal(answer: str) -> bool:
    """Return True if an answer refuses in the words of an assistant."""
    head = answer[:_HEAD_CHARS]
    found = _SELF.search(head)
    if found is not None and found.start() <= _MOST_AFTER:
        return True
    return len(answer) <= _WHOLE_CHARS and _SORRY.match(head) is not None
