"""Four small kinds of work, written for these tests: some to learn from, some to predict."""

_LEARN = {
    "refund": [
        "I want my money back for the broken lamp",
        "please refund the order I returned last week",
        "how long until the refund is on my card",
        "the parcel never came, give me my money back",
        "can I get a refund without a receipt",
        "refund the double payment from Monday",
    ],
    "translate": [
        "translate this letter into French",
        "what is 'good morning' in Japanese",
        "put the paragraph below into Spanish",
        "how do you say thank you in German",
        "translate the menu from Italian to English",
        "give me a Polish version of this sentence",
    ],
    "python": [
        "write a Python function that reverses a list",
        "why does this Python loop raise an IndexError",
        "refactor the class so that it has no global variable",
        "add type hints to this function",
        "how do I read a csv file with pandas",
        "the unit test fails with a TypeError, fix the code",
    ],
    "weather": [
        "will it rain in Oslo tomorrow",
        "how warm is it outside right now",
        "do I need an umbrella this afternoon",
        "what is the forecast for the weekend",
        "is it going to snow on Friday",
        "tell me the temperature in Madrid",
    ],
}
_UNSEEN = {
    "refund": ["when do I get my money back", "refund my last order please"],
    "translate": ["translate this sentence into German", "how do you say goodbye in French"],
    "python": ["write a function that sorts a list", "this class raises a TypeError in Python"],
    "weather": ["will it snow in Madrid this weekend", "what is the temperature tomorrow"],
}

LEARN = [(text, label) for label, texts in _LEARN.items() for text in texts]
UNSEEN = [(text, label) for label, texts in _UNSEEN.items() for text in texts]
