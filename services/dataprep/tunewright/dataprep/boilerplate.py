"""Web pages' furniture in texts: cookie notices, share buttons, copyright lines, calls to subscribe; English, Chinese.

A line is furniture only as a whole line, so sentences that speak of cookies or copyright stay. Knows nothing of rows.
"""

# ruff: noqa: E501 - tables and patterns, and Chinese characters, which count twice

import re

_ENGLISH = r"""
(?:we|this\ (?:web)?site|our\ (?:web)?site|by\ (?:using|continuing))\b.{0,120}\b(?:uses?\ cookies(?:\ (?:to\ (?:improve|enhance|ensure|provide|personali[sz]e|analy[sz]e|give|offer|make\ sure|deliver|help)|on\ (?:this|our)|and\ (?:other|similar)|for\ (?:analytics|statistics|advertising))\b.{0,200}|[.!]?)|use\ of\ cookies.{0,200}|cookie\ policy.{0,200})
|accept\ (?:all\ )?cookies
|(?:©|\(c\)|copyright)\ ?(?:©|\(c\))?\ ?(?:(?:19|20)\d\d).{0,100}
|.{0,80}\ball\ rights\ reserved.{0,40}
|(?:please\ )?(?:subscribe|sign\ up)\ (?:to|for)\ (?:our|my|the)\b.{0,100}
|(?:share|tweet)\ (?:this|on|via)\b.{0,60}|share:.{0,60}|tweet
|follow\ (?:us|me)\ on\b.{0,60}
|click\ here(?:\ (?:to|for)\b.{0,60})?|read\ more(?:\ (?:about|at|on)\b.{0,60})?|read\ also:.{0,120}
|related\ (?:articles|posts)(?:\ ?:.{0,120})?
|advertisement|sponsored(?:\ (?:content|post))?
|(?:(?:privacy(?:\ policy)?|terms\ (?:of\ (?:use|service)|and\ conditions)|cookie\ policy|contact\ us|sitemap|about\ us)[\ |·•,/&-]*){2,}
|(?:please\ )?enable\ javascript.{0,100}|javascript\ is\ (?:disabled|required|not\ enabled).{0,100}
|skip\ to\ (?:main\ )?content|back\ to\ top|print\ this(?:\ (?:page|article))?
|leave\ a\ (?:comment|reply)(?:\ .{0,40})?
|(?:log\ ?in|sign\ up)\ ?(?:/|\||or)\ ?(?:log\ ?in|sign\ up|register|create).{0,30}
|powered\ by\ .{1,40}
|(?:filed\ under|posted\ in|tags)\ ?:\ ?.{1,100}
|originally\ published\ (?:at|on|by|in)\b.{0,100}
|lorem\ ipsum\b.*
"""
_CHINESE = r"""
(?:©.{0,30})?(?:版权所有|版權所有).{0,60}|.{0,20}(?:版权|版權)(?:归|歸).{1,30}(?:所有).{0,30}
|(?:未经|如需|未經).{0,24}(?:转载|授权|許可|许可|轉載).{0,40}|(?:转载|轉載)(?:请|請|须|需).{0,40}
|(?:请|請|快)?(?:点击|點擊|扫描|掃描|扫码|掃碼|长按|長按).{0,30}(?:关注|關注|二维码|二維碼|公众号|公眾號|订阅|下方|链接).{0,30}
|(?:欢迎|歡迎|请|請|更多.{0,20})?(?:关注|關注).{0,20}(?:公众号|公眾號|微信|微博|我们|我們).{0,40}
|(?:责任编辑|責任編輯|责编|编辑)[：:].{1,20}|[（(](?:责任编辑|責任編輯|责编|编辑)[：:].{1,20}[)）]
|(?:文章)?来源[：:].{1,30}|原标题[：:].{1,60}
|(?:相关阅读|相关文章|延伸阅读|推荐阅读|上一篇|下一篇)[：:].{0,100}
|(?:分享到|分享至)[：:]?.{0,40}|免责声明[：:].{0,300}|返回(?:顶部|首页)|(?:展开|阅读)(?:全文|原文)|广告
|.{0,40}ICP(?:备|證|证)\s?\d+号.{0,20}
"""
_LINE = re.compile(rf"[\W_]{{0,8}}(?:{_ENGLISH}|{_CHINESE})[\W_]{{0,8}}", re.VERBOSE | re.IGNORECASE)
_SUBJECT = re.compile(
    r"cookie|footer|banner|newsletter|subscribe|copyright|privacy|terms|licen[cs]e|lorem|web ?(?:page|site)|tags?\b|advert"
    r"|版权|版權|声明|网站|页脚|广告|公众号|微信|转载|来源|标签|备案",
    re.IGNORECASE,
)
_LONGEST_LINE = 400
_FENCE = re.compile(r"[ \t]*(?:`{3}|~{3})")


def asks_for_boilerplate(question: str) -> bool:
    """Return True if a question speaks of such things itself: then they belong to the answer."""
    return _SUBJECT.search(question) is not None


def is_boilerplate(line: str) -> bool:
    """Return True if a line as a whole is furniture of a web page."""
    line = line.strip()
    return 0 < len(line) <= _LONGEST_LINE and _LINE.fullmatch(line) is not None


def without_edges(text: str) -> str:
    """Return the text without such lines at its beginning and its end; a text of nothing else stays."""
    lines = text.split("\n")
    low, high = 0, len(lines)
    while low < high and _goes(lines[low]):
        low += 1
    while high > low and _goes(lines[high - 1]):
        high -= 1
    if low == high or not (any(map(is_boilerplate, lines[:low])) or any(map(is_boilerplate, lines[high:]))):
        return text
    if any(map(_FENCE.match, lines[:low])) or any(map(_FENCE.match, lines[high:])):
        return text
    first = low if any(map(is_boilerplate, lines[:low])) else 0
    last = high if any(map(is_boilerplate, lines[high:])) else len(lines)
    return "\n".join(lines[first:last])


def share(text: str) -> float:
    """Return the share of a text's characters, 0 to 1, that stand in such lines."""
    lines = [line.strip() for line in text.split("\n")]
    total = sum(map(len, lines))
    return sum(len(line) for line in lines if is_boilerplate(line)) / total if total else 0.0


def _goes(line: str) -> bool:
    return not line.strip() or is_boilerplate(line)
