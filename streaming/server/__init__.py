"""`mmx serve`: OpenAI's audio API, live sessions over WebSockets, and the page."""
