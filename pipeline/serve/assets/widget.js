// A button that opens outfinder's page over a shop's own:
//   <script src="https://search.example/widget.js" data-text="Search by photo" defer></script>
// data-target="#element" names the element that the button goes into, instead of the end of the page.
{
  const script = document.currentScript;
  const { text = "Search by photo", target } = script.dataset;
  const address = new URL(".", script.src).href;

  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.className = "outfinder-button";

  const dialog = document.createElement("dialog");
  dialog.setAttribute("aria-label", text);
  Object.assign(dialog.style, {
    width: "min(96vw, 1200px)", height: "92vh", maxWidth: "none", maxHeight: "none", padding: "0", border: "0",
    borderRadius: "12px", overflow: "hidden",
  });
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "×";
  close.setAttribute("aria-label", "Close");
  Object.assign(close.style, {
    position: "absolute", top: "8px", right: "8px", width: "40px", height: "40px", border: "0", borderRadius: "50%",
    font: "24px/1 sans-serif", cursor: "pointer", zIndex: "1",
  });
  close.addEventListener("click", () => dialog.close());
  dialog.append(close);

  button.addEventListener("click", () => {
    if (!dialog.querySelector("iframe")) {
      const frame = document.createElement("iframe");
      frame.src = address;
      frame.title = text;
      frame.allow = "clipboard-read; camera";
      Object.assign(frame.style, { width: "100%", height: "100%", border: "0", display: "block" });
      dialog.append(frame);
    }
    dialog.showModal();
  });

  const place = () => {
    (target ? document.querySelector(target) : document.body).append(button);
    document.body.append(dialog);
  };
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", place);
  else place();
}
