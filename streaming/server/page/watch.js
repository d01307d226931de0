// Says so where the page's program does not start. A plain script: browsers load it even where they refuse modules.

(() => {
  const say = (text) => {
    document.getElementById("status").textContent = "Not started";
    document.getElementById("banner-text").textContent = text;
    document.getElementById("banner").hidden = false;
    document.getElementById("banner-close").onclick = () => { document.getElementById("banner").hidden = true; };
  };
  const asked = "Reload it. If that does not help, whoever runs the server can see whether a proxy before it keeps the "
    + "Host header and lets everything below this address through.";
  addEventListener("error", (e) => {
    if (e.target instanceof HTMLScriptElement) say(`The page's program could not be loaded from the server. ${asked}`);
  }, true);
  setTimeout(() => {
    if (document.body.dataset.state === "loading") say(`The server has not answered for 10 seconds. ${asked}`);
  }, 10000);
})();
